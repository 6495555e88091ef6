"""E-values of a search beside what chance gives: chains of which TM-align says which are related.

    KERAS_BACKEND=torch python packages/protein/experiments/calibration.py SET

SET is that of `structs.py`. Sixty chains are searched in all of them, exhaustively, by the shipped
model. Related are the pairs of the table, and of the others those with a TM-score above 0.5 by
either length, which is asked for all that have an E-value of at most 3. Prints, for each null
distribution, how many unrelated chains a query has up to an E-value, and the share of the related
ones. Markdown.
"""

import argparse
import csv
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import tmtools

from keras_struct import protein
from keras_struct.protein.index_search import NULL_SEED, RELATED, SAMPLED, SHUFFLED
from keras_struct.protein.local_scores import LocalScores
from keras_struct.protein.null_scores import NullScores, shuffled
from keras_struct.protein.structure_index import MISSING, RESIDUES, background_chains

QUERIES, SHORT, LONG = 60, 60, 500
LEVELS = (0.01, 0.1, 1.0, 10.0, 100.0)
BLOCKS = (10, 20, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", type=Path)
    folder = parser.parse_args().set
    chains = read(folder)
    aligner = protein.ProteinAligner.from_preset("structure")
    states = aligner.encode(chains)
    lengths = np.array([len(x) for x in states])
    generator = np.random.default_rng(1)
    queries = [k for k in generator.permutation(len(chains)) if SHORT <= lengths[k] <= LONG]
    queries = queries[:QUERIES]
    score = LocalScores(aligner)
    flat = np.concatenate(aligner.encode(background_chains())).astype("float32")
    rows = np.random.default_rng(0).choice(len(flat), min(RESIDUES, len(flat)), replace=False)
    common = [score.common(x, flat[np.sort(rows)]) for x in states]
    found = np.array([score(states[k], states, common[k], common) for k in queries])

    def null(position, chosen, block=None):
        """Scores of a query with chains, shuffled if there is a block."""
        if block is None:
            return found[position][chosen]
        random = np.random.default_rng(NULL_SEED)
        others = [shuffled(random, states[j], common[j], block=block) for j in chosen]
        k = queries[position]
        return score(states[k], [x for x, _ in others], common[k], [x for _, x in others])

    def values(size, related=0.0, block=None):
        """E-values of all chains for all queries."""
        table = []
        for position in range(len(queries)):
            random = np.random.default_rng(NULL_SEED)
            chosen = random.choice(len(chains), size, replace=block is not None)
            fitted = NullScores.fitted(null(position, chosen, block), lengths[chosen], related)
            table.append(fitted.e_values(found[position], lengths, len(chains)))
        return np.array(table)

    tables = {f"{SAMPLED} chains, the highest tenth censored": values(SAMPLED, RELATED)}
    for share in (0.05, 0.2):
        tables[f"{SAMPLED} chains, {share} censored"] = values(SAMPLED, share)
    for block in BLOCKS:
        tables[f"{SHUFFLED} shuffled, {block} residues at a time"] = values(SHUFFLED, 0.0, block)
    related = relations(folder, chains, queries, next(iter(tables.values())))
    cells = " | ".join(f"E ≤ {level:g}" for level in LEVELS)
    print(f"| null distribution | {cells} | related, E ≤ 0.1 | E ≤ 1 |")
    print("|---|" + "---:|" * (len(LEVELS) + 2))
    others = related.copy()
    others[np.arange(len(queries)), queries] = False
    share = (~related).sum() / related.size
    for name, table in tables.items():
        counts = [(~related & (table <= x)).sum(1).mean() / share for x in LEVELS]
        shares = [(others & (table <= x)).sum() / others.sum() for x in (0.1, 1.0)]
        row = [f"{x:.2g}" for x in counts] + [f"{x:.2f}" for x in shares]
        print(f"| {name} | {' | '.join(row)} |")


def read(folder: Path) -> list[protein.Chain]:
    found = []
    with np.load(folder / "chains.npz") as stored:
        for row in json.loads((folder / "chains.json").read_text()):
            places = stored[str(row["i"])]
            backbone = np.where(places == MISSING, np.nan, places / np.float32(100))
            found.append(protein.Chain(str(row["i"]), row["seq"], backbone))
    return found


def relations(folder, chains, queries, values):
    """Which chains are related to which query, (queries, chains)."""
    place = {chain.name: k for k, chain in enumerate(chains)}
    pairs = set()
    with open(folder / "tm_pairs.tsv", newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            first, second = place[row["i"]], place[row["j"]]
            pairs |= {(first, second), (second, first)}
    found = np.array([[j == k or (k, j) in pairs for j in range(len(chains))] for k in queries])
    for position, j in np.argwhere(~found & (values <= 3)):
        first, second = chains[queries[position]], chains[j]
        ca = [chain.ca.astype("float64") for chain in (first, second)]
        aligned = tmtools.tm_align(*ca, first.sequence, second.sequence)
        found[position, j] = max(aligned.tm_norm_chain1, aligned.tm_norm_chain2) > 0.5
    return found


if __name__ == "__main__":
    main()
