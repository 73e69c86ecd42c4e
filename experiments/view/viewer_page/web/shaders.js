// Shaders and colours. Colours are display-encoded (sRGB) throughout, as the textures are.

/** Name of a colour mode -> uMode, in the order of the controls. */
const MODES = { texture: 1, clay: 0, spread: 2, distance: 3, mask: 4 };
/** From light grey to dark purple, evenly darker; also drawn in the legend. */
const RAMP = ["#e9e3d8", "#fbd582", "#f79c4b", "#e2553f", "#b0245a", "#5c1458"];
const SEEN = "#8fc1ab";
const HIDDEN = "#823cdc";
const CLAY = "#d9cdbd";

const HEAD_VERTEX = `#version 300 es
layout(location = 0) in vec3 aPosition;
layout(location = 1) in vec3 aNormal;
layout(location = 2) in vec2 aUv;
layout(location = 3) in float aSeen;
layout(location = 4) in float aValue;
uniform mat4 uToClip;
uniform mat3 uRotation;
out vec3 vNormal;
out vec3 vWorldNormal;
out vec2 vUv;
out float vSeen;
out float vValue;
void main() {
  vNormal = uRotation * aNormal;
  vWorldNormal = aNormal;
  vUv = aUv;
  vSeen = aSeen;
  vValue = aValue;
  gl_Position = uToClip * vec4(aPosition, 1.0);
}`;

const HEAD_FRAGMENT = `#version 300 es
precision highp float;
in vec3 vNormal;
in vec3 vWorldNormal;
in vec2 vUv;
in float vSeen;
in float vValue;
uniform int uMode;
uniform float uAlpha;
uniform float uTop;
uniform vec3 uLight[9];
uniform vec3 uRamp[6];
uniform vec3 uSeen;
uniform vec3 uHidden;
uniform vec3 uClay;
uniform sampler2D uTexture;
out vec4 colour;

// Spherical harmonics as in flamejax.rendering.light.
vec3 photoLight(vec3 n) {
  return 0.28209479 * uLight[0]
    + 0.48860251 * (n.y * uLight[1] + n.z * uLight[2] + n.x * uLight[3])
    + 1.09254843 * (n.x * n.y * uLight[4] + n.y * n.z * uLight[5] + n.x * n.z * uLight[7])
    + 0.31539157 * (3.0 * n.z * n.z - 1.0) * uLight[6]
    + 0.54627422 * (n.x * n.x - n.y * n.y) * uLight[8];
}

vec3 ramp(float value) {
  float at = clamp(value / uTop, 0.0, 1.0) * 5.0;
  int low = min(int(at), 4);
  return mix(uRamp[low], uRamp[low + 1], at - float(low));
}

void main() {
  float side = gl_FrontFacing ? 1.0 : -1.0;
  vec3 n = normalize(vNormal) * side;
  // Lights fixed to the view: from the upper left, a weak one from the right, and the sky.
  float key = max(dot(n, normalize(vec3(-0.5, 0.55, 0.67))), 0.0);
  float fill = max(dot(n, normalize(vec3(0.8, 0.05, 0.6))), 0.0);
  float sky = 0.5 + 0.5 * n.y;
  float shine = pow(max(dot(n, normalize(vec3(-0.28, 0.31, 0.91))), 0.0), 22.0);
  vec3 result;
  if (uMode == 1) {
    vec3 light = max(photoLight(normalize(vWorldNormal) * side), 0.0);
    result = texture(uTexture, vUv).rgb * light;
  } else if (uMode == 0) {
    vec3 warm = vec3(1.0, 0.965, 0.92);
    vec3 cool = vec3(0.86, 0.92, 1.0);
    vec3 light = 0.66 * key * warm + 0.17 * fill * cool + (0.12 + 0.22 * sky) * cool;
    // Squared and rooted: light adds up in linear space.
    result = sqrt(uClay * uClay * light * 1.35 + 0.035 * shine);
  } else {
    // Weak shading, so that the colours can be matched with the legend.
    float light = 0.60 + 0.34 * key + 0.08 * fill + 0.06 * sky;
    vec3 base = ramp(vValue);
    if (uMode == 4) {
      float wide = max(fwidth(vSeen), 1e-4);
      base = mix(uHidden, uSeen, smoothstep(0.5 - wide, 0.5 + wide, vSeen));
    }
    result = base * light;
  }
  if (!gl_FrontFacing) result *= 0.55;
  colour = vec4(clamp(result, 0.0, 1.0), uAlpha);
}`;

const WIRE_VERTEX = `#version 300 es
layout(location = 0) in vec3 aPosition;
uniform mat4 uToClip;
void main() {
  gl_Position = uToClip * vec4(aPosition, 1.0);
  // Slightly in front of the surface.
  gl_Position.z -= 0.0015 * gl_Position.w;
}`;

const WIRE_FRAGMENT = `#version 300 es
precision highp float;
uniform vec4 uColour;
out vec4 colour;
void main() { colour = uColour; }`;

const PHOTO_VERTEX = `#version 300 es
uniform vec4 uBox;
out vec2 vAt;
void main() {
  vAt = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(mix(uBox.xy, uBox.zw, vAt), 0.9999, 1.0);
}`;

const PHOTO_FRAGMENT = `#version 300 es
precision highp float;
in vec2 vAt;
uniform sampler2D uPhoto;
uniform float uAlpha;
out vec4 colour;
void main() { colour = vec4(texture(uPhoto, vAt).rgb, uAlpha); }`;

/** "#rrggbb" -> [r, g, b] in [0, 1]. */
function parseColour(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
}
