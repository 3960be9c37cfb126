"""Odd quintics whose composition takes every singular value in [l, 1] to 1: the schedules of the polar iteration.

Each polynomial x(a + bx² + cx⁴) is the one closest to 1 on the interval that the polynomials before it leave (greedy
minimax composition: Amsel et al. 2025, arXiv:2505.16932; Grishina et al. 2025, arXiv:2506.10935). Two departures:

- The interval is taken from 1/20 of its top at the lowest. The true optimum would take values near the top back down to
  its bottom, and lose there the digits that they had.
- It reaches 1 % above its top while values are still spread, so that a value that rounding lifts above the largest
  is taken down again. Without it a value of 1 + 1e-6 diverges.
"""

from __future__ import annotations

import numpy as np

_LOWEST = 0.05
_ABOVE = 0.01
_CLOSE = 1e-2  # the interval's relative length below which the limit, x(15 - 10x² + 3x⁴)/8, is as good as the optimum

Quintic = tuple[float, float, float]  # a, b, c


def schedule(smallest: float) -> list[Quintic]:
    """The polynomials for singular values in [smallest, 1], to |1 - p| ≤ 1e-11. The tables below are its results."""
    low, high = smallest, 1.0
    steps: list[Quintic] = []
    while max(high - 1, 1 - low) > 1e-11:
        top = high * (1 + _ABOVE * (1 - low / high))
        step = _closest_to_one(max(low, _LOWEST * top), top)
        low, high = _image(step, low, top if not steps else high)
        steps.append(step)
    return steps


def _closest_to_one(low: float, high: float) -> Quintic:
    """The odd quintic of least max |1 - p| on [low, high], by Remez exchange: 1 ∓ e in turn at four points."""
    if high - low < _CLOSE * high:
        middle = ((low * low + high * high) / 2) ** 0.5
        return 15 / 8 / middle, -10 / 8 / middle**3, 3 / 8 / middle**5
    inner = np.array([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
    while True:
        points = np.array([low, *inner, high])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        a, b, c, _ = np.linalg.solve(np.stack([points, points**3, points**5, signs], axis=1), np.ones(4))
        moved = _extrema(a, b, c)
        if np.abs(moved - inner).max() <= 1e-9 * high:
            return float(a), float(b), float(c)
        inner = moved


def _extrema(a: float, b: float, c: float) -> np.ndarray:
    root = (9 * b * b - 20 * a * c) ** 0.5
    return np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))


def _image(step: Quintic, low: float, high: float) -> tuple[float, float]:
    a, b, c = step
    inside = [x for x in _extrema(a, b, c) if low < x < high] if 9 * b * b > 20 * a * c else []
    values = [float(x * (a + x * x * (b + x * x * c))) for x in (low, *inside, high)]
    return min(values), max(values)


# l → its schedule: 13, 16 and 21 steps. The rest of [0, l] goes to [0, 1] too: nothing ever exceeds 1.
QUINTIC: dict[float, tuple[Quintic, ...]] = {
    1e-06: (
        (6.685520142904434, -17.811270296748404, 12.619541928525232),
        (4.016121199447947, -3.8610881887699873, 0.9871920189717484),
        (4.016121681108517, -3.8610895779717067, 0.9871926109503767),
        (4.016123615517201, -3.8610951571817513, 0.987194988412953),
        (4.016131384361509, -3.861117564090524, 0.9872045366671545),
        (4.016162585376326, -3.861207554962878, 0.987242884842332),
        (4.016287898453088, -3.8615690006609253, 0.9873969151652432),
        (4.016791244877894, -3.863021050868114, 0.9880158041870164),
        (3.7550263347976527, -3.504016869089909, 0.888206851273881),
        (2.334891477890228, -1.6819541011663122, 0.4113091081515478),
        (1.8942683346685916, -1.2687769038503152, 0.374760505877951),
        (1.874962179786313, -1.2499243610983422, 0.37496218131200876),
        (1.8750000006297238, -1.2500000012594477, 0.3750000006297238),
    ),
    1e-08: (
        (6.6855200773731, -17.811269772991256, 12.619541310042749),
        (4.016121041349562, -3.8610877327839073, 0.9871918246630544),
        (4.016121046166169, -3.86108774667593, 0.9871918305828421),
        (4.016121065510237, -3.8610878024679294, 0.987191854357406),
        (4.016121143198353, -3.8610880265353553, 0.9871919498389355),
        (4.016121455203262, -3.8610889264174597, 0.9871923333044392),
        (4.016122708253412, -3.861092540456245, 0.9871938733503358),
        (4.016127740664933, -3.861107054926301, 0.9872000583932642),
        (4.0161479516058645, -3.8611653476433467, 0.9872248987919954),
        (4.016229123789528, -3.861399471655631, 0.9873246690707921),
        (4.016555156703178, -3.862339940053277, 0.9877254836108822),
        (4.017864709109126, -3.8661189887350025, 0.9893367175613275),
        (2.691349462739504, -2.059869689214914, 0.4870574496797138),
        (1.9494891652539563, -1.3253512933162896, 0.378644647456094),
        (1.8749313193193613, -1.2497205020082398, 0.3747892281115138),
        (1.8749999781206323, -1.2499999562412651, 0.37499997812063285),
    ),
    1e-11: (
        (6.685520076711828, -17.811269767706065, 12.61954130380169),
        (4.016121039754208, -3.8610877281826017, 0.9871918227023071),
        (4.016121039759025, -3.8610877281964995, 0.9871918227082291),
        (4.016121039778372, -3.8610877282522975, 0.9871918227320065),
        (4.016121039856062, -3.8610877284763654, 0.9871918228274876),
        (4.016121040168062, -3.861087729376236, 0.9871918232109482),
        (4.016121041421115, -3.8610877329902733, 0.9871918247509927),
        (4.016121046453505, -3.8610877475046625, 0.987191830935989),
        (4.016121066664231, -3.861087805796264, 0.9871918557757041),
        (4.016121147832919, -3.8610880399023366, 0.9871919555349881),
        (4.016121473816258, -3.8610889801009245, 0.9871923561805007),
        (4.016122783005514, -3.8610927560558252, 0.9871939652235496),
        (4.016128040879438, -3.861107920805454, 0.9872004273703487),
        (4.0161491573198855, -3.861168825201436, 0.987226380699077),
        (4.016233966330923, -3.8614134392422104, 0.9873306213857175),
        (4.016574608033529, -3.862396053820659, 0.9877494005745603),
        (4.017942819514127, -3.866344474170205, 0.9894328886646551),
        (2.640056032622034, -1.9918097749690273, 0.4683389354695349),
        (1.94109077746391, -1.316834067884879, 0.377989939680751),
        (1.8749210686561064, -1.249740374323145, 0.3748193321835009),
        (1.8749999867443767, -1.2499999734887537, 0.374999986744377),
    ),
}
