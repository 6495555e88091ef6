"""Structures over heads and dependents: spanning trees and projective trees."""
