"""Rendering: rasterize -> interpolate -> texture and light -> image."""

from flamejax.render.antialias import antialias, opposite_vertices
from flamejax.render.interpolate import interpolate
from flamejax.render.light import ambient_light, sh_basis, shade, shade_directional
from flamejax.render.rasterize import Fragments, fragment_geometry, rasterize
from flamejax.render.render import composite, render, render_fragments
from flamejax.render.texture import mip_level, mip_levels, sample_texture

__all__ = [
    "Fragments",
    "ambient_light",
    "antialias",
    "composite",
    "fragment_geometry",
    "interpolate",
    "mip_level",
    "mip_levels",
    "opposite_vertices",
    "rasterize",
    "render",
    "render_fragments",
    "sample_texture",
    "sh_basis",
    "shade",
    "shade_directional",
]
