"""Names: what is allowed, and one made up for who gives none."""

from __future__ import annotations

import os
import random
import re
from typing import Final

from gantry.containers.table import Table
from gantry.model.errors import Conflict, InvalidParameter

CHARS: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_VALID: Final = re.compile(rf"/?{CHARS}+")

ADJECTIVES: Final = (
    "airy able amber apt arctic ardent avid balmy blithe bold brave breezy bright brisk calm"
    " candid civil clever cordial cosy crisp daring deft devoted droll eager earnest easy"
    " elated fair faithful fervent fond frank gallant gentle genuine gifted glad golden grand"
    " handy hardy hearty honest humble jaunty jolly jovial keen kind lithe lively loyal lucid"
    " lucky mellow merry mild mindful modest neat nimble noble patient placid plucky polite"
    " proud quick quiet ready robust rustic sage serene sharp silent sincere sleek smooth snug"
    " sober solid spry stable stout sunny supple sure tender thrifty tidy tranquil trusty"
    " upbeat valiant vivid warm wise witty zesty"
)

SURNAMES: Final = (
    "abel ampere archimedes babbage banach bernoulli bessel bohr boole born bose brahe brouwer"
    " cantor carnot cauchy cavendish celsius chebyshev church clausius coulomb curie dedekind"
    " descartes dijkstra dirac doppler eddington einstein engelbart erdos euclid euler faraday"
    " fermat fermi feynman fibonacci fourier franklin frege galileo galois gauss germain"
    " goedel hamilton hamming heisenberg hermite hilbert hooke hopper hubble huygens hypatia"
    " jacobi joule kelvin kepler kleene knuth kolmogorov kovalevskaya lagrange laplace leibniz"
    " liskov lorentz lovelace mach markov maxwell meitner mendeleev milner mittag moore napier"
    " neumann newton nightingale noether ohm oppenheim pascal pauli peano perlman planck"
    " poincare poisson ptolemy ramanujan riemann ritchie roentgen rubin rutherford schroedinger"
    " shannon somerville tarski tesla thompson torvalds turing volta weierstrass wiles wirth"
    " wozniak wu zuse"
)


def new_id() -> str:
    """64 hexadecimal digits; never all decimal ones in the short form, which is a host name."""
    while True:
        candidate = os.urandom(32).hex()
        if not candidate[:12].isdecimal():
            return candidate


def reserve(table: Table, name: str, container_id: str) -> str:
    """Reserve `name`, or one made up when empty; without slash. InvalidParameter, Conflict."""
    if not name:
        return _make_up(table, container_id)
    plain = check(name)
    table.reserve(plain, container_id)
    return plain


def check(name: str) -> str:
    """A name that may be, without slash. InvalidParameter."""
    if _VALID.fullmatch(name) is None:
        raise InvalidParameter(f"Invalid container name ({name}), only {CHARS} are allowed")
    return name.removeprefix("/")


def _make_up(table: Table, container_id: str) -> str:
    for attempt in range(6):
        name = f"{random.choice(ADJECTIVES.split())}_{random.choice(SURNAMES.split())}"
        if attempt:
            name += str(random.randrange(10))
        try:
            table.reserve(name, container_id)
        except Conflict:
            continue
        return name
    table.reserve(container_id[:12], container_id)
    return container_id[:12]
