"""Rendering: rasterize -> interpolate -> texture and light -> image."""

from flamejax.rendering._antialias import antialias
from flamejax.rendering._interpolate import interpolate
from flamejax.rendering._neighbours import opposite_vertices
from flamejax.rendering._rasterize import Fragments, fragment_geometry, rasterize
from flamejax.rendering._render import Shader, composite, render, render_mesh
from flamejax.rendering.light import ambient_light, clay, sh_basis, shade, shade_directional
from flamejax.rendering.texture import mip_level, mip_levels, sample_texture

__all__ = [
    "Fragments",
    "Shader",
    "ambient_light",
    "antialias",
    "clay",
    "composite",
    "fragment_geometry",
    "interpolate",
    "mip_level",
    "mip_levels",
    "opposite_vertices",
    "rasterize",
    "render",
    "render_mesh",
    "sample_texture",
    "sh_basis",
    "shade",
    "shade_directional",
]
