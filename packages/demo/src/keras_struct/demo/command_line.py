"""The command `keras-struct`, whose only work so far is the page."""

import argparse
import sys
import threading
import webbrowser

PROGRAM = "keras-struct"
PORT = 8765


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(PROGRAM, description="Structured prediction for Keras 3.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="a page to play with, on this machine alone")
    demo.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 for a free one")
    demo.add_argument("--no-browser", action="store_true", help="do not open the page")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    from keras_struct.demo.server import make_server  # imports a backend, for seconds
    from keras_struct.runs import run_command

    def work(left_out):
        with make_server(options.port) as server:
            address = f"http://127.0.0.1:{server.server_port}/"
            print(f"{address} (Ctrl-C ends it)", flush=True)
            if not options.no_browser:
                threading.Timer(0.5, webbrowser.open, [address]).start()
            server.serve_forever()

    return run_command(PROGRAM, work)


if __name__ == "__main__":
    sys.exit(main())
