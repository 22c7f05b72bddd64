"""What a question to a model will take and cost, before it is asked: tokens of pictures and words, and their price.

Pure functions over dated tables; nothing is fetched.
"""

from __future__ import annotations

from sensorium.pricing.pictures import Confidence, Detail, PictureTokens
from sensorium.pricing.prices import Price, price
from sensorium.pricing.rules import estimate, rule_for
from sensorium.pricing.text import AROUND, words

__all__ = ["AROUND", "Confidence", "Detail", "PictureTokens", "Price", "estimate", "price", "rule_for", "words"]
