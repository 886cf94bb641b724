"""Colors for classes that have none of their own, as different from one another as can be seen."""

from __future__ import annotations

import numpy as np

_COLORS = (
    "8811ffcc000000770000ff00aa7700ff44990088ff771144ffdd00008888666677ff886600116600ffee553300bb99ee00443388aa66"
    "00ccffffbbcceeffbb0055aaffcc99777766aa7777660000995599ee11ff555500cc005544333322bb99005566220022aaccff995522"
    "ff9900aacc007700888888003333227777bb99ccccff3344aa9977dd660088eeaaeeddff558866884444554477aa99aa7799aa665544"
    "ff88dd0022cc00bb00ccaa44ddffee114400337799002222330000bbccaaccaa9922223344665500335588998800aabb9966ffff7788"
    "3366ffbb77aacceeff775566eeff449977558899ff775500dd00aa667733002200009944aa007755eeff00aaffffeecc6655bb773311"
    "dd9966669900334444bb5555eedd88ff3300221100aa5577441155887799ffdddd887777bbff7700cc77bb6644eebbff444455aa0022"
    "ffbb00aa11bbffbbaabbbbdd555555999999006633bbbb77442233557777dd77ff00ccccff1166dd9999aaaa0088bb9900666688cc55"
    "44221199bbcc333388888855aa77ccdd99bb4455336699998888996677880044ffccbb99dd0033445566556699110011440088332200"
    "ee55cc001100000033993355778888333300333333aaaa9966ddbb6633aaaa8877bbffff6666445522228899bb886655aaffddff8833"
    "7744770099776644444488997700229955ccbb7733ddddcccc4400dd7799ccdd7700ff88001122117766aa44334466004477bb887733"
    "550022332244ddddee55aa770099ccbb22ff00dd44bb889999110099aaaacc5599558844cc8877bbaaaaccbbcceeccbb554411440033"
    "dd6666aacc8855335566aa9900ffcc997788774400996622003344777777223322663344667755aaddbb664433cc8811775599555544"
    "ddddaaeebb66aa9955ff6622bb55bb99ddff004444661155ccdddd9988bbcc117777664477aaee2244bbccbbff66ccdd3344667777ee"
    "886666115577007788ddbbbb008855665555ee99ffccffccbb6677ff6655ccaaccddeeccaaee00ffcceeaa33445544557755ee448800"
    "6688aa775533"
)
"""254 colors, red, green and blue as two hexadecimal digits each.

Each is the color of the 16 x 16 x 16 grid of steps of 17 with the largest CIEDE2000 distance (D65) to those before it
and to black, white and the gray of 190, which pictures use for pixels that are ignored, unlabeled or right. So the
first K are good for any K: 20 are more than 21 apart (from one another and from those three), 64 more than 13, all 254
more than 7. `tests/data/test_palette.py` makes them anew.
"""


def make_palette(num_classes: int) -> np.ndarray:
    """Return the first colors of the table; they repeat after 254.

    Shapes:
        -> (K, 3) uint8 RGB
    """
    colors = np.frombuffer(bytes.fromhex(_COLORS), np.uint8).reshape(-1, 3)
    return colors[np.arange(num_classes) % len(colors)]
