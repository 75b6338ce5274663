"""Control: training embeddings to match a target, or to say something else (SelfIE, section 3.4)."""

from selfie_rs._selfie import Outcome, reinforce, supervised

__all__ = ["Outcome", "reinforce", "supervised"]
