"""The attributes of a portrait and their probabilities: a table of percent for each, given those before it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes:
        name: how it is called.
        values: their names; a label is the index of one.
        percent: how likely each value is. With parents, a dict from a line to such a tuple; a line names values of
            each parent, with spaces between them, "*" all of them. Later lines replace earlier ones.
        parents: the names of the attributes that it depends on; they come before it.
    """

    name: str
    values: tuple[str, ...]
    percent: tuple[int, ...] | dict[tuple[str, ...], tuple[int, ...]]
    parents: tuple[str, ...] = ()


class Attributes:
    """Attributes and their joint probability, p(a) = prod_k p(a_k | parents of a_k).

    Labels are whole numbers ``(N, number of attributes)``, the indices of values.

    Raises:
        ValueError: a table does not name all values of its parents, or its percent do not sum to 100.
    """

    def __init__(self, attributes: tuple[Attribute, ...]):
        self.names = tuple(attribute.name for attribute in attributes)
        self.values = {attribute.name: attribute.values for attribute in attributes}
        self.parents = {attribute.name: attribute.parents for attribute in attributes}
        self.tables = {attribute.name: self._table(attribute) for attribute in attributes}

    def __len__(self) -> int:
        return len(self.names)

    def _table(self, attribute: Attribute) -> np.ndarray:
        """Percent, ``(number of values of each parent ..., number of values)``."""
        parents = [self.values[parent] for parent in attribute.parents]
        table = np.full([*map(len, parents), len(attribute.values)], -1)
        lines = attribute.percent if isinstance(attribute.percent, dict) else {(): attribute.percent}
        for line, percent in lines.items():
            chosen = [
                range(len(values)) if names == "*" else [values.index(name) for name in names.split()]
                for names, values in zip(line, parents, strict=True)
            ]
            table[np.ix_(*chosen) if chosen else ...] = percent
        if (table < 0).any() or (table.sum(-1) != 100).any():
            raise ValueError(f"{attribute.name}: each combination of parents needs percent that sum to 100")
        return table

    def columns(self, names: tuple[str, ...]) -> list[int]:
        """The columns of labels that hold these attributes."""
        return [self.names.index(name) for name in names]

    def draw(self, words: np.ndarray) -> np.ndarray:
        """Labels ``(N, A)``, int64, from random words of 64 bits ``(N, A)``."""
        labels = np.empty(words.shape, np.int64)
        for k, name in enumerate(self.names):
            table = self.tables[name]
            lines = np.repeat(np.tile(np.arange(table.shape[-1]), table.size // table.shape[-1]), table.reshape(-1))
            parents = tuple(labels[:, self.columns(self.parents[name])].T)
            # The remainder is uniform up to 100 / 2^64.
            index = (*parents, (words[:, k] % np.uint64(100)).astype(np.int64))
            labels[:, k] = lines.reshape(*table.shape[:-1], 100)[index]
        return labels

    def log_prob(self, labels: np.ndarray) -> np.ndarray:
        """log p(a) in nats, ``(N,)``; -inf for combinations that never occur."""
        with np.errstate(divide="ignore"):
            families = {name: self.columns((*self.parents[name], name)) for name in self.names}
            each = [np.log(self.tables[name][tuple(labels[:, family].T)] / 100) for name, family in families.items()]
        return np.sum(each, axis=0)

    def possible(self, labels: np.ndarray) -> np.ndarray:
        """False where the attributes that are known, those >= 0, never occur together by one of the tables."""
        result = np.ones(len(labels), bool)
        for name, table in self.tables.items():
            family = labels[:, self.columns((*self.parents[name], name))]
            result &= (family < 0).any(1) | (table[tuple(family.T)] > 0)
        return result

    def marginal(self, names: tuple[str, ...]) -> np.ndarray:
        """p of these attributes, one axis for each, summed over all others."""
        needed = set(names)
        for name in reversed(self.names):
            if name in needed:
                needed |= set(self.parents[name])
        axes = [name for name in self.names if name in needed]
        operands = []
        for name in axes:
            operands += [self.tables[name] / 100, [axes.index(part) for part in (*self.parents[name], name)]]
        return np.einsum(*operands, [axes.index(name) for name in names], optimize="greedy")

    def entropy(self) -> float:
        """H(a) in bits: the sum of the entropies of each attribute given its parents."""
        total = 0.0
        for name, table in self.tables.items():
            p = table / 100
            bits = -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
            total += float((self.marginal(self.parents[name]) * bits).sum()) if self.parents[name] else float(bits)
        return total

    def combinations(self) -> int:
        """The number of combinations that occur, exactly."""
        axes, operands = list(self.names), []
        for name, table in self.tables.items():
            operands += [(table > 0).astype(np.int64), [axes.index(part) for part in (*self.parents[name], name)]]
        return int(np.einsum(*operands, [], optimize="greedy"))


_HUES = ("red", "orange", "olive", "green", "teal", "blue", "violet", "grey")
_SKIN = ("porcelain", "light", "honey", "tan", "brown", "dark")
_HATS = "beanie cap brimmed"

ATTRIBUTES = Attributes(
    (
        Attribute(
            "background",
            ("coral", "amber", "lime", "mint", "sky", "lavender", "pink", "sand"),
            (12, 14, 10, 14, 16, 14, 10, 10),
        ),
        Attribute("backdrop", ("plain", "disc", "halves", "rays", "dots"), (28, 26, 16, 16, 14)),
        Attribute("light", ("left", "front", "right"), (38, 24, 38)),
        Attribute("pose", ("left", "straight", "right"), (28, 44, 28)),
        Attribute("skin", _SKIN, (14, 22, 18, 18, 16, 12)),
        Attribute("face", ("oval", "round", "square"), (42, 32, 26)),
        # Colours that stand out from the background are likelier.
        Attribute(
            "clothing_colour",
            _HUES,
            {
                ("coral pink",): (4, 6, 10, 16, 22, 26, 10, 6),
                ("amber sand",): (14, 4, 6, 18, 22, 20, 10, 6),
                ("lime mint",): (22, 16, 4, 4, 10, 20, 16, 8),
                ("sky lavender",): (22, 18, 12, 14, 10, 6, 8, 10),
            },
            ("background",),
        ),
        Attribute("clothing", ("tee", "v-neck", "shirt", "hoodie", "raglan", "stripes"), (18, 14, 20, 18, 14, 16)),
        Attribute(
            "hair_colour",
            ("black", "brown", "auburn", "blond", "grey", "pink", "turquoise"),
            {
                ("porcelain",): (12, 26, 18, 26, 10, 5, 3),
                ("light",): (18, 30, 14, 22, 10, 3, 3),
                ("honey tan",): (44, 34, 6, 4, 8, 2, 2),
                ("brown dark",): (66, 16, 2, 2, 10, 2, 2),
            },
            ("skin",),
        ),
        Attribute(
            "hair",
            ("bald", "buzz", "short", "spiky", "curly", "afro", "bob", "long", "bun", "mohawk"),
            (6, 9, 17, 9, 11, 8, 13, 15, 7, 5),
        ),
        # Hats sit on hair that shows at their sides, or on none.
        Attribute(
            "headwear",
            ("none", "headband", *_HATS.split()),
            {
                ("*",): (84, 16, 0, 0, 0),
                ("bald",): (40, 0, 22, 22, 16),
                ("short bob long",): (52, 8, 14, 14, 12),
                ("mohawk",): (100, 0, 0, 0, 0),
            },
            ("hair",),
        ),
        # Half of them match the clothing.
        Attribute(
            "hat_colour",
            ("none", *_HUES),
            {
                ("none", "*"): (100, *8 * (0,)),
                **{(f"headband {_HATS}", hue): (0, *(58 if other == hue else 6 for other in _HUES)) for hue in _HUES},
            },
            ("headwear", "clothing_colour"),
        ),
        Attribute("glasses", ("none", "round", "square", "sunglasses"), (62, 15, 14, 9)),
        Attribute(
            "glasses_colour",
            ("none", "black", "red", "blue", "gold"),
            {
                ("none",): (100, 0, 0, 0, 0),
                ("round square",): (0, 40, 20, 20, 20),
                ("sunglasses",): (0, 60, 10, 10, 20),
            },
            ("glasses",),
        ),
        Attribute("mouth", ("frown", "flat", "smile", "grin", "laugh", "surprise"), (10, 18, 30, 20, 12, 10)),
        Attribute(
            "eyes",
            ("open", "wide", "sleepy", "shut", "hidden"),
            {
                ("*", "frown flat"): (62, 12, 24, 2, 0),
                ("*", "smile"): (70, 14, 8, 8, 0),
                ("*", "grin laugh"): (48, 14, 4, 34, 0),
                ("*", "surprise"): (20, 76, 2, 2, 0),
                ("sunglasses", "*"): (0, 0, 0, 0, 100),
            },
            ("glasses", "mouth"),
        ),
        Attribute(
            "eye_colour",
            ("none", "brown", "hazel", "green", "blue", "violet"),
            {
                ("porcelain light", "*"): (0, 24, 16, 20, 34, 6),
                ("honey tan", "*"): (0, 60, 20, 10, 6, 4),
                ("brown dark", "*"): (0, 80, 10, 4, 3, 3),
                ("*", "shut hidden"): (100, 0, 0, 0, 0, 0),
            },
            ("skin", "eyes"),
        ),
        Attribute(
            "gaze",
            ("left", "ahead", "right"),
            {("*",): (24, 52, 24), ("shut hidden",): (0, 100, 0)},
            ("eyes",),
        ),
        Attribute(
            "brows",
            ("flat", "raised", "angry", "worried"),
            {
                ("*",): (48, 34, 6, 12),
                ("frown",): (14, 6, 46, 34),
                ("surprise",): (6, 78, 4, 12),
            },
            ("mouth",),
        ),
        Attribute("nose", ("small", "long", "wide"), (40, 30, 30)),
        Attribute(
            "cheeks",
            ("plain", "blush", "freckles"),
            {("porcelain light",): (44, 30, 26), ("honey tan",): (60, 30, 10), ("brown dark",): (74, 26, 0)},
            ("skin",),
        ),
        Attribute(
            "beard",
            ("none", "stubble", "moustache", "goatee", "full"),
            {("*",): (44, 12, 14, 12, 18), ("long",): (86, 4, 2, 2, 6), ("bob bun",): (100, 0, 0, 0, 0)},
            ("hair",),
        ),
        # Bob and long hair cover the ears.
        Attribute(
            "earrings",
            ("none", "studs", "hoops"),
            {("*",): (78, 14, 8), ("bun",): (24, 38, 38), ("bob long",): (100, 0, 0)},
            ("hair",),
        ),
    )
)
