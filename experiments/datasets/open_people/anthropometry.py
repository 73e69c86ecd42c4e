"""Eleven caliper measurements of adult heads on the open head's mesh, and the statistics of a published survey.

Survey: Z. Zhuang, B. Bradtmiller, "Head-and-face anthropometric survey of U.S. respirator users", J Occup Environ Hyg
2(11):567-576, 2005 (NIOSH 2003: 3,997 adults of 18-66 years), weighted to the U.S. population. The article was
not accessible, so `SURVEY` is from memory. It was checked against two public sources (`tools.open_head.anthropometry`):
summaries of the survey's own public-domain records (CDC RD-10130-2020-0; not weighted, with more minorities than the
population has), and of ANSUR II (U.S. Army 2012, 4,082 men and 1,986 women). Others quote the article's mean nose
protrusion of men too. The other values of nose protrusion and those of minimum frontal breadth have no second source.
"""

from __future__ import annotations

import numpy as np

SEXES = ("men", "women")
SURVEY = {  # millimetres: (mean, standard deviation) of men, of women
    "bizygomatic breadth": ((143.5, 6.9), (135.1, 6.5)),
    "menton-sellion length": ((122.7, 7.0), (113.4, 6.1)),
    "head breadth": ((153.0, 6.0), (146.8, 5.6)),
    "head length": ((197.3, 7.4), (187.5, 7.2)),
    "interpupillary distance": ((64.5, 3.6), (61.9, 3.5)),
    "nose breadth": ((36.6, 4.1), (33.2, 3.9)),
    "nose protrusion": ((21.1, 2.7), (19.8, 2.7)),
    "lip length": ((51.1, 4.2), (48.0, 4.0)),
    "subnasale-sellion length": ((52.0, 4.1), (48.2, 3.8)),
    "bigonial breadth": ((120.4, 10.4), (110.1, 8.9)),
    "minimum frontal breadth": ((105.5, 5.7), (102.9, 5.4)),
}
NAMES = tuple(SURVEY)

# Vertices of the open head, left and right; several where a caliper measures the largest breadth.
ZYGION = ((4037, 4347, 4356, 4365), (1889, 2201, 2210, 2219))
EURYON = (
    (3048, 3049, 3141, 3142, 3151, 3153, 3154, 3155, 3162, 3163, 3181, 3182, 3185, 3984, 3990, 4007, 4008, 4009),
    (863, 864, 964, 965, 975, 977, 978, 979, 987, 988, 1007, 1008, 1011, 1834, 1840, 1859, 1860, 1861),
)
ALARE = ((3767, 3683, 3687, 2579), (1604, 1516, 1521, 337))
GONION = ((2939, 3077), (739, 895))
FRONTOTEMPORALE = ((3882, 3883), (1725, 1726))
CHEILION = ((3613,), (1445,))
SELLION, GLABELLA, PRONASALE, SUBNASALE, MENTON = 132, 234, 1519, 343, 1761
OPISTHOCRANION = (962, 1854, 955, 1844)
LEFT_EYE, RIGHT_EYE = slice(4410, 4692), slice(4692, 4974)


def measure(vertices: np.ndarray) -> np.ndarray:
    """Measure heads (..., V, 3) in metres: (..., 11) millimetres, in the order of `NAMES`."""
    x = vertices[..., 0]

    def largest_breadth(pair):
        return x[..., list(pair[0])].max(-1) - x[..., list(pair[1])].min(-1)

    def distance(a, b):
        return np.linalg.norm(a - b, axis=-1)

    def mean_distance(pair):
        return distance(vertices[..., list(pair[0]), :].mean(-2), vertices[..., list(pair[1]), :].mean(-2))

    def point(i):
        return vertices[..., i, :]

    values = {
        "bizygomatic breadth": largest_breadth(ZYGION),
        "menton-sellion length": distance(point(MENTON), point(SELLION)),
        "head breadth": largest_breadth(EURYON),
        "head length": np.stack([distance(point(GLABELLA), point(i)) for i in OPISTHOCRANION], -1).max(-1),
        "interpupillary distance": distance(vertices[..., LEFT_EYE, :].mean(-2), vertices[..., RIGHT_EYE, :].mean(-2)),
        "nose breadth": largest_breadth(ALARE),
        "nose protrusion": distance(point(PRONASALE), point(SUBNASALE)),
        "lip length": mean_distance(CHEILION),
        "subnasale-sellion length": distance(point(SUBNASALE), point(SELLION)),
        "bigonial breadth": mean_distance(GONION),
        "minimum frontal breadth": mean_distance(FRONTOTEMPORALE),
    }
    return 1e3 * np.stack([values[n] for n in NAMES], -1)


def survey(sex: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the published means and standard deviations (11,) of "men" or "women", millimetres."""
    mean, std = np.array([SURVEY[n][SEXES.index(sex)] for n in NAMES]).T
    return mean, std


AGEING = ("nose breadth", "lip length", "subnasale-sellion length")
# Older adults have larger noses and wider mouths. In Zhuang, Landsittel, Benson, Roberge, Shaffer 2010, Ann Occup Hyg
# 54(4):391-402 (abstract), 19 dimensions differ at 45 years and above. The strength of the effect is our own choice.
