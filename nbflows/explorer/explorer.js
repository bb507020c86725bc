// The layers of a flow in plain JavaScript: picture to latents with its bits, and latents to picture.
// It runs in a worker of the explorer's page and in node. Numbers are doubles; a picture is (C, H, W), as in PyTorch.
"use strict";

const LN2 = Math.log(2);
const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI);
const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const logSigmoid = (v) => (v < 0 ? v - Math.log1p(Math.exp(v)) : -Math.log1p(Math.exp(-v)));
const sum = (values) => values.reduce((total, v) => total + v, 0);

// ---------------------------------------------------------------------------------------------- files

// SHA-256 of bytes, in hexadecimal. crypto.subtle is missing in pages that some browsers open from a file.
function sha256(content) {
  const K = new Int32Array(64), H = new Int32Array(8), words = new Int32Array(64), primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (v) => (v - Math.floor(v)) * 2 ** 32;
  primes.forEach((p, i) => (K[i] = fraction(Math.cbrt(p))));
  primes.slice(0, 8).forEach((p, i) => (H[i] = fraction(Math.sqrt(p))));
  const length = content.length, bytes = new Uint8Array(((length + 72) >> 6) << 6);
  bytes.set(content);
  bytes[length] = 0x80;
  const view = new DataView(bytes.buffer);
  view.setUint32(bytes.length - 8, Math.floor(length / 2 ** 29));
  view.setUint32(bytes.length - 4, (length * 8) >>> 0);
  for (let start = 0; start < bytes.length; start += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(start + 4 * i);
    for (let i = 16; i < 64; i++) {
      const a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + words[i - 7] +
        (((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3)) +
        (((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10));
    }
    let a = H[0], b = H[1], c = H[2], d = H[3], e = H[4], f = H[5], g = H[6], h = H[7];
    for (let i = 0; i < 64; i++) {
      const turnE = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const turnA = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const s = (turnE + ((e & f) ^ (~e & g)) + h + K[i] + words[i]) | 0;
      const t = (turnA + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + s) | 0; d = c; c = b; b = a; a = (s + t) | 0;
    }
    H[0] += a; H[1] += b; H[2] += c; H[3] += d; H[4] += e; H[5] += f; H[6] += g; H[7] += h;
  }
  return Array.from(H, (v) => (v >>> 0).toString(16).padStart(8, "0")).join("");
}

// The bytes of a text of base 85: four bytes are five digits, and < is written as a comma, so that no text ends a script.
function bytesOf(text) {
  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
  const digit = new Uint8Array(128), length = Math.floor((text.length * 4) / 5), bytes = new Uint8Array(length + 4);
  for (let i = 0; i < 85; i++) digit[DIGITS.charCodeAt(i)] = i;
  const view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
    let value = 0;
    for (let k = i; k < i + 5; k++) value = value * 85 + (k < text.length ? digit[text.charCodeAt(k)] : 84);
    view.setUint32(at, value);
  }
  return bytes.subarray(0, length);
}

function ascii(text) {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Numbers of a stored tensor as doubles: "f4" float32, "f3" float32 without its lowest byte, "f2" float16, "u1" bytes.
// The highest bytes of all numbers come first, then the next ones, because they compress better apart.
function numbers(bytes, kind, offset, count) {
  const out = new Float64Array(count), bits = new Int32Array(1), float = new Float32Array(bits.buffer), width = +kind[1];
  for (let i = 0; i < count; i++) {
    bits[0] = 0;
    for (let k = 0; k < width; k++) bits[0] = (bits[0] << 8) | bytes[offset + k * count + i];
    if (kind === "u1") out[i] = bits[0];
    else if (kind === "f2") {
      const half = bits[0], exponent = (half >> 10) & 31, fraction = half & 1023;
      const size = exponent === 0 ? fraction * 2 ** -24
        : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
      out[i] = half & 0x8000 ? -size : size;
    } else {
      bits[0] <<= 32 - 8 * width;
      out[i] = float[0];
    }
  }
  return out;
}

// ---------------------------------------------------------------------------------------------- networks
// A map inside a network has its channels innermost and a border of one zero pixel: the 3 x C numbers below one row
// of a kernel then lie side by side.

const pool = new Map();

// Buffers are reused, so that a picture costs no garbage; nobody writes into the border, which stays zero.
function buffer(slot, h, w, c) {
  const key = `${slot} ${h} ${w} ${c}`;
  if (!pool.has(key)) pool.set(key, new Float64Array(((h + 2) * (w + 2) + 2) * c));
  return pool.get(key);
}

const interior = (y, x, w, c) => ((y + 1) * (w + 2) + x + 1) * c;

// A kernel in blocks of four outputs, each with its rows, columns and input channels in the order of memory.
function packed(weight, bias, [outputs, inputs, size], scale) {
  const blocks = Math.ceil(outputs / 4), length = size * size * inputs;
  const w = new Float64Array(blocks * length * 4), b = new Float64Array(blocks * 4);
  for (let o = 0; o < outputs; o++) {
    const s = scale ? scale[o] : 1;
    b[o] = bias ? bias[o] * s : 0;
    for (let i = 0; i < inputs; i++)
      for (let p = 0; p < size * size; p++)
        w[(((o >> 2) * length + p * inputs + i) << 2) + (o & 3)] = weight[(o * inputs + i) * size * size + p] * s;
  }
  return { w, b, outputs, inputs, size };
}

function convolve(x, h, w, { w: weights, b: bias, outputs, inputs, size }, y, relu) {
  const row = size * inputs, length = size * row, stride = (w + 2) * inputs, start = size === 3 ? 0 : stride + inputs;
  for (let o = 0; o < outputs; o += 4) {
    const b0 = bias[o], b1 = bias[o + 1], b2 = bias[o + 2], b3 = bias[o + 3], left = outputs - o;
    for (let i = 0; i < h; i++) {
      for (let j = 0; j < w; j += 2) {
        let a0 = b0, a1 = b1, a2 = b2, a3 = b3, c0 = b0, c1 = b1, c2 = b2, c3 = b3, q = o * length;
        for (let d = 0; d < size; d++) {
          let p = start + (i + d) * stride + j * inputs;
          for (const end = p + row; p < end; p++, q += 4) {
            const u = x[p], v = x[p + inputs], w0 = weights[q], w1 = weights[q + 1], w2 = weights[q + 2],
              w3 = weights[q + 3];
            a0 += u * w0; a1 += u * w1; a2 += u * w2; a3 += u * w3;
            c0 += v * w0; c1 += v * w1; c2 += v * w2; c3 += v * w3;
          }
        }
        if (relu) {
          a0 = a0 > 0 ? a0 : 0; a1 = a1 > 0 ? a1 : 0; a2 = a2 > 0 ? a2 : 0; a3 = a3 > 0 ? a3 : 0;
          c0 = c0 > 0 ? c0 : 0; c1 = c1 > 0 ? c1 : 0; c2 = c2 > 0 ? c2 : 0; c3 = c3 > 0 ? c3 : 0;
        }
        const to = interior(i, j, w, outputs) + o;
        y[to] = a0;
        if (left > 1) y[to + 1] = a1;
        if (left > 2) y[to + 2] = a2;
        if (left > 3) y[to + 3] = a3;
        if (j + 1 === w) continue;
        const next = to + outputs;
        y[next] = c0;
        if (left > 1) y[next + 1] = c1;
        if (left > 2) y[next + 2] = c2;
        if (left > 3) y[next + 3] = c3;
      }
    }
  }
  return y;
}

// [elu(x), elu(-x)] along the channels.
function concatELU(x, h, w, c, y) {
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const from = interior(i, j, w, c), to = interior(i, j, w, 2 * c);
      for (let k = 0; k < c; k++) {
        const v = x[from + k], e = Math.expm1(-Math.abs(v));
        y[to + k] = v > 0 ? v : e;
        y[to + c + k] = v > 0 ? e : -v;
      }
    }
  return y;
}

// x + value sigmoid(gate), then layer norm over the channels; into x.
function gatedNorm(x, h, w, c, valueAndGate, { weight, bias, eps }) {
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const at = interior(i, j, w, c), from = interior(i, j, w, 2 * c);
      let mean = 0, variance = 0;
      for (let k = 0; k < c; k++) {
        x[at + k] += valueAndGate[from + k] * sigmoid(valueAndGate[from + c + k]);
        mean += x[at + k];
      }
      mean /= c;
      for (let k = 0; k < c; k++) variance += (x[at + k] - mean) ** 2;
      const scale = 1 / Math.sqrt(variance / c + eps);
      for (let k = 0; k < c; k++) x[at + k] = (x[at + k] - mean) * scale * weight[k] + bias[k];
    }
}

// A network, a list of parts, from (C, h, w) to (outputs, h, w).
function run(net, x, c, h, w) {
  let y = buffer("in", h, w, c);
  for (let k = 0; k < c; k++)
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) y[interior(i, j, w, c) + k] = x[(k * h + i) * w + j];
  let slot = 0;
  for (const part of net) {
    if (part.op === "conv") {
      y = convolve(y, h, w, part, buffer("conv" + (slot ^= 1), h, w, part.outputs), part.relu);
      c = part.outputs;
    } else if (part.op === "concat_elu") {
      y = concatELU(y, h, w, c, buffer("elu", h, w, 2 * c));
      c *= 2;
    } else {
      const first = concatELU(y, h, w, c, buffer("elu", h, w, 2 * c));
      const inner = convolve(first, h, w, part.conv, buffer("inner", h, w, c));
      const second = concatELU(inner, h, w, c, buffer("elu", h, w, 2 * c));
      gatedNorm(y, h, w, c, convolve(second, h, w, part.gate, buffer("gate", h, w, 2 * c)), part.norm);
    }
  }
  const out = new Float64Array(c * h * w);
  for (let k = 0; k < c; k++)
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) out[(k * h + i) * w + j] = y[interior(i, j, w, c) + k];
  return out;
}

const bounds = {
  tanh: () => Math.tanh,
  learned_tanh: ({ limit }) => (raw, k) => limit[k] * Math.tanh(raw / limit[k]),
  scaled_tanh: ({ limit }) => (raw, k) => limit[k] * Math.tanh(raw),
  arctan: ({ limit }) => (raw) => 0.636 * limit * Math.atan(raw),
  sigmoid: ({ offset, lowest }) => (raw) =>
    lowest ? Math.log(lowest + (1 - lowest) * sigmoid(raw + offset)) : logSigmoid(raw + offset),
};

// ---------------------------------------------------------------------------------------------- layers
// A state is x of (c, h, w), the latents that have left it, and the context of a network if it has one. spend(state, k,
// p, nats) says which position p pays for a log-determinant.

const SIZES = { first: (c) => [0, c / 2], second: (c) => [c / 2, c], some: (c, k) => [0, k] };

// The network of a coupling, applied to what it keeps: the shift and the log-scale of every number that moves.
function couple(layer, state, z, move) {
  const { c, h, w } = state, area = h * w, mask = layer.mask;
  const [from, to] = mask ? [0, c] : SIZES[layer.keep](c, layer.count);
  const moved = mask ? c : c - (to - from), context = state.context;
  const input = new Float64Array((to - from) * area + (context ? context.length : 0));
  input.set(z.subarray(from * area, to * area));
  const kept = (k, p) => mask[(mask.length > area ? k * area : 0) + p] === 1;
  if (mask) for (let k = 0; k < c; k++) for (let p = 0; p < area; p++) if (!kept(k, p)) input[k * area + p] = 0;
  if (context) input.set(context, (to - from) * area);
  const t = run(layer.net, input, input.length / area, h, w), out = Float64Array.from(z);
  for (let k = 0; k < moved; k++)
    for (let p = 0; p < area; p++) {
      if (mask && kept(k, p)) continue;
      const at = (mask || from > 0 ? k : k + to) * area + p;
      out[at] = move(z[at], t[k * area + p], layer.bound(t[(moved + k) * area + p], k), p);
    }
  return out;
}

const each = (state, change) => {
  const area = state.h * state.w;
  return { ...state, x: Float64Array.from(state.x, (v, i) => change(v, Math.floor(i / area), i % area)) };
};

function squeeze({ x, c, h, w, ...rest }) {
  const z = new Float64Array(x.length), area = (h * w) / 4;
  for (let k = 0, i = 0; k < c; k++)
    for (let y = 0; y < h; y++)
      for (let j = 0; j < w; j++, i++) z[(4 * k + 2 * (y & 1) + (j & 1)) * area + ((y >> 1) * w >> 1) + (j >> 1)] = x[i];
  return { ...rest, x: z, c: 4 * c, h: h / 2, w: w / 2 };
}

function unsqueeze({ x, c, h, w, ...rest }) {
  const out = new Float64Array(x.length), area = h * w;
  for (let k = 0, i = 0; k < c / 4; k++)
    for (let y = 0; y < 2 * h; y++)
      for (let j = 0; j < 2 * w; j++, i++) out[i] = x[(4 * k + 2 * (y & 1) + (j & 1)) * area + (y >> 1) * w + (j >> 1)];
  return { ...rest, x: out, c: c / 4, h: 2 * h, w: 2 * w };
}

function mix(x, c, area, matrix) {
  const z = new Float64Array(x.length);
  for (let i = 0; i < c; i++)
    for (let k = 0; k < c; k++) {
      const weight = matrix[i * c + k];
      for (let p = 0; p < area; p++) z[i * area + p] += weight * x[k * area + p];
    }
  return z;
}

// The inverse of a matrix and log|det|, by elimination with pivots.
function inverted(matrix, n) {
  const a = Array.from({ length: n }, (_, i) =>
    Float64Array.from({ length: 2 * n }, (_, k) => (k < n ? matrix[i * n + k] : +(k - n === i))));
  let logDet = 0;
  for (let i = 0; i < n; i++) {
    let best = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(a[r][i]) > Math.abs(a[best][i])) best = r;
    [a[i], a[best]] = [a[best], a[i]];
    const pivot = a[i][i];
    logDet += Math.log(Math.abs(pivot));
    for (let k = 0; k < 2 * n; k++) a[i][k] /= pivot;
    for (let r = 0; r < n; r++) {
      const factor = a[r][i];
      if (r !== i && factor) for (let k = 0; k < 2 * n; k++) a[r][k] -= factor * a[i][k];
    }
  }
  return { inverse: Float64Array.from({ length: n * n }, (_, i) => a[Math.floor(i / n)][n + (i % n)]), logDet };
}

// A learned Gaussian prior: the mean and the log standard deviation of an exiting latent, read off what continues.
function gaussian({ net, max }, leaving, x, c, h, w, move) {
  const size = leaving.length, out = run(net, x, c, h, w);
  return Float64Array.from(leaving, (v, i) => move(v, out[i], Math.min(max, Math.max(-max, out[size + i])), i));
}

const halves = (x, keep) => {
  const middle = x.length / 2, parts = [x.slice(0, middle), x.slice(middle)];
  return keep === "first" ? parts : parts.reverse();
};
const joined = (kept, leaving, keep) => {
  const x = new Float64Array(kept.length + leaving.length);
  x.set(keep === "first" ? kept : leaving);
  x.set(keep === "first" ? leaving : kept, x.length / 2);
  return x;
};

const LAYERS = {
  squeeze: { forward: (_, state) => squeeze(state), inverse: (_, state) => unsqueeze(state) },
  permute: {
    forward: ({ order }, s) => ({ ...s, x: channels(s, (k) => order[k]) }),
    inverse: ({ order }, s) => ({ ...s, x: channels(s, (k) => order.indexOf(k)) }),
  },
  flip: {
    forward: (_, s) => ({ ...s, x: channels(s, (k) => s.c - 1 - k) }),
    inverse: (_, s) => ({ ...s, x: channels(s, (k) => s.c - 1 - k) }),
  },
  actnorm: {
    forward({ bias, logScale }, state, spend) {
      const logDet = sum(logScale);
      for (let p = 0; p < state.h * state.w; p++) spend(state, p, logDet);
      return each(state, (v, k) => (v + bias[k]) * Math.exp(logScale[k]));
    },
    inverse: ({ bias, logScale }, state) => each(state, (v, k) => v * Math.exp(-logScale[k]) - bias[k]),
  },
  conv1x1: {
    forward({ weight, logDet }, state, spend) {
      for (let p = 0; p < state.h * state.w; p++) spend(state, p, logDet);
      return { ...state, x: mix(state.x, state.c, state.h * state.w, weight) };
    },
    inverse: ({ inverse }, state) => ({ ...state, x: mix(state.x, state.c, state.h * state.w, inverse) }),
  },
  coupling: {
    forward: (layer, state, spend) => ({
      ...state,
      x: couple(layer, state, state.x, (v, t, s, p) => {
        spend(state, p, s);
        return layer.shiftFirst ? (v + t) * Math.exp(s) : v * Math.exp(s) + t;
      }),
    }),
    inverse: (layer, state) => ({
      ...state,
      x: couple(layer, state, state.x, (v, t, s) =>
        layer.shiftFirst ? v * Math.exp(-s) - t : (v - t) * Math.exp(-s)),
    }),
  },
  exit: {
    forward({ prior, keep }, state, spend) {
      const [x, leaving] = halves(state.x, keep), next = { ...state, x, c: state.c / 2 }, area = state.h * state.w;
      const noise = prior ? gaussian(prior, leaving, x, next.c, state.h, state.w, (v, mean, logStd, i) => {
        spend(state, i % area, -logStd);
        return (v - mean) * Math.exp(-logStd);
      }) : leaving;
      return { ...next, exits: [...state.exits, noise] };
    },
    inverse({ prior, keep }, state) {
      const noise = state.exits[state.exits.length - 1];
      const leaving = prior ? gaussian(prior, noise, state.x, state.c, state.h, state.w,
        (v, mean, logStd) => v * Math.exp(logStd) + mean) : noise;
      return { ...state, x: joined(state.x, leaving, keep), c: 2 * state.c, exits: state.exits.slice(0, -1) };
    },
  },
};

function channels({ x, c, h, w }, source) {
  const out = new Float64Array(x.length), area = h * w;
  for (let k = 0; k < c; k++) out.set(x.subarray(source(k) * area, (source(k) + 1) * area), k * area);
  return out;
}

// Layers that only rearrange numbers, by whose inverses a state in the middle becomes a picture.
const REARRANGES = { squeeze: unsqueeze, exit: LAYERS.exit.inverse };

// ---------------------------------------------------------------------------------------------- flow

class Flow {
  // description: what nbflows.explorer.describe returns. Throws an Error if its weights are not those that it names.
  static async open(description) {
    const stored = new Blob([bytesOf(description.weights)]).stream().pipeThrough(new DecompressionStream("deflate"));
    // What cannot be unpacked does not match either.
    const content = await new Response(stored).arrayBuffer().catch(() => new ArrayBuffer(0));
    return new Flow(description, new Uint8Array(content));
  }

  constructor(description, bytes) {
    const program = ascii(description.program), hashed = new Uint8Array(program.length + bytes.length);
    hashed.set(program);
    hashed.set(bytes, program.length);
    const found = sha256(hashed);
    if (found !== description.sha256)
      throw new Error(`the weights do not match: their SHA-256 begins with ${found.slice(0, 12)}, ` +
        `this model's with ${description.sha256.slice(0, 12)}`);
    const { shape, grey_levels: greyLevels, tensors, steps, dequantize, levels } = JSON.parse(description.program);
    const read = (i) => {
      const [kind, dims, offset] = tensors[i];
      return numbers(bytes, kind, offset, dims.reduce((a, b) => a * b, 1));
    };
    Object.assign(this, { shape, greyLevels, levels, dequantize });
    const prepared = (list) => list.map((step) => prepare(step, read, tensors));
    this.steps = prepared(steps);
    this.noiseSteps = prepared(dequantize.transform || []);
  }

  get size() {
    return this.shape[0] * this.shape[1] * this.shape[2];
  }

  // Integers to logits, with the noise of each pixel: uniform draws, which a learned transform reshapes if there is one.
  _dequantize(pixels, draws, pay) {
    const { alpha, spacing, edge } = this.dequantize, K = this.greyLevels, [c, h, w] = this.shape, area = h * w;
    const logit = (v, rest) => {
      const a = Math.log(v * (1 - alpha) + alpha / 2), b = Math.log(rest * (1 - alpha) + alpha / 2);
      return [a - b, Math.log1p(-alpha) - a - b];
    };
    const unshrink = (v) => (v - alpha / 2) / (1 - alpha);
    let u = Float64Array.from(draws), rest = u.map((v) => 1 - v);
    if (this.noiseSteps.length) {
      const context = Float64Array.from(pixels, (v) => (v * 2) / (K - 1) - 1), x = new Float64Array(u.length);
      for (let i = 0; i < u.length; i++) {
        const [z, nats] = logit(u[i], rest[i]);
        x[i] = z;
        pay(i % area, -nats);
      }
      let state = { x, c, h, w, exits: [], context };
      for (const step of this.noiseSteps) state = LAYERS[step.op].forward(step, state, (_, p, nats) => pay(p, -nats));
      state.x.forEach((z, i) => {
        pay(i % area, -(logSigmoid(z) + logSigmoid(-z) - Math.log1p(-alpha)));
        u[i] = unshrink(sigmoid(z));
        rest[i] = unshrink(sigmoid(-z));
      });
    }
    return Float64Array.from(pixels, (pixel, i) => {
      // Noise within a rounding error of the edges of its bin moves inside, as in nbflows.layers.Dequantization.
      let below = pixel, above = pixel + 1;
      if (alpha !== null) {
        const beyond = (K * alpha) / 2 / (1 - alpha);
        below = Math.min(below, K - below) + beyond;
        above = Math.min(above, K - above) + beyond;
      }
      const lower = Math.max(8 * edge * below, edge / 4), upper = Math.max(8 * edge * above, edge / 4);
      const inside = Math.min(Math.max(u[i], lower), 1 - upper), other = Math.min(Math.max(rest[i], upper), 1 - lower);
      if (alpha === null) {
        pay(i % area, Math.log(K));
        return pixel * spacing + inside / K;
      }
      const [z, nats] = logit((pixel + inside) / K, (K - 1 - pixel + other) / K);
      pay(i % area, Math.log(K) - nats);
      return z;
    });
  }

  // A picture to its latents, finest level first, and to the bits that it costs: of each pixel, of each level's latents
  // (its learned prior included) and of each level's layers; level 0 of the layers is the dequantization.
  encode(pixels, draws) {
    const [c, h, w] = this.shape, map = new Float64Array(h * w);
    const layers = new Float64Array(this.levels.length + 1), latents = new Float64Array(this.levels.length);
    // A position of a coarse level spends evenly on the pixels below it.
    const spread = (rows, columns, p, nats) => {
      const f = h / rows, y = Math.floor(p / columns) * f, x = (p % columns) * f;
      for (let i = 0; i < f; i++) for (let j = 0; j < f; j++) map[(y + i) * w + x + j] += nats / (f * f);
    };
    const x = this._dequantize(pixels, draws, (p, nats) => {
      map[p] += nats;
      layers[0] += nats;
    });
    let state = { x, c, h, w, exits: [] };
    for (const step of this.steps)
      state = LAYERS[step.op].forward(step, state, (at, p, nats) => {
        spread(at.h, at.w, p, -nats);
        if (step.op === "exit") latents[step.level] -= nats;
        else layers[step.level + 1] -= nats;
      });
    const z = [...state.exits, state.x];
    z.forEach((level, i) => {
      const [, rows, columns] = this.levels[i], area = rows * columns;
      level.forEach((v, k) => {
        const nats = 0.5 * v * v + HALF_LOG_2PI;
        latents[i] += nats;
        spread(rows, columns, k % area, nats);
      });
    });
    const bits = (values) => values.map((v) => v / LN2);
    return { z, map: bits(map), layers: bits(layers), latents: bits(latents), bitsPerDim: sum(map) / LN2 / this.size };
  }

  // Latents to a picture of integers. With onStep, each state between two layers is handed out as a picture of reals:
  // what the remaining layers would make of it if they only put numbers in their places.
  decode(z, onStep) {
    const exits = z.slice(0, -1).map((level) => Float64Array.from(level)), last = this.levels.length - 1;
    const [c, h, w] = this.levels[last];
    let state = { x: Float64Array.from(z[last]), c, h, w, exits };
    for (let i = this.steps.length; i >= 0; i--) {
      if (onStep) onStep(i, this._arranged(state, i));
      if (i > 0) state = LAYERS[this.steps[i - 1].op].inverse(this.steps[i - 1], state);
    }
    return this._quantized(state.x);
  }

  _arranged(state, count) {
    for (let i = count - 1; i >= 0; i--) {
      const undo = REARRANGES[this.steps[i].op];
      if (this.steps[i].op === "exit") state = undo({ ...this.steps[i], prior: null }, state);
      else if (undo) state = undo(state);
    }
    return state.x;
  }

  _quantized(x) {
    const { alpha, spacing } = this.dequantize, K = this.greyLevels;
    const unshrink = (v) => (v - alpha / 2) / (1 - alpha);
    return Uint8Array.from(x, (z) => {
      if (!Number.isFinite(z)) throw new Error("these latents are too far from those of real data: an inverse overflowed");
      const pixel = alpha === null ? Math.floor(z / spacing)
        : z < 0 ? Math.floor(unshrink(sigmoid(z)) * K) : K - 1 - Math.floor(unshrink(sigmoid(-z)) * K);
      return Math.min(K - 1, Math.max(0, pixel));
    });
  }
}

// The tensors of a step, read and put into the order in which they are used.
function prepare(step, read, tensors) {
  const conv = ({ weight, bias, scale, gain, relu }) => {
    const dims = tensors[weight][1], log = scale === undefined ? null : read(scale);
    return { op: "conv", relu, ...packed(read(weight), bias === undefined ? null : read(bias),
      dims, log && log.map((v) => Math.exp(gain * v))) };
  };
  const net = (parts) => parts.map((part) =>
    part.op === "conv" ? conv(part)
      : part.op === "gated" ? { op: "gated", conv: conv(part.conv), gate: conv(part.gate),
        norm: { weight: read(part.weight), bias: read(part.bias), eps: part.eps } }
        : part);
  const common = { op: step.op, level: step.level };
  switch (step.op) {
    case "actnorm":
      return { ...common, bias: read(step.bias), logScale: read(step.log_scale) };
    case "conv1x1": {
      const weight = read(step.weight);
      return { ...common, weight, ...inverted(weight, tensors[step.weight][1][0]) };
    }
    case "coupling": {
      const bound = { ...step.bound };
      if (bound.limits !== undefined) bound.limit = read(bound.limits);
      if (bound.kind === "learned_tanh") bound.limit = bound.limit.map(Math.exp);
      return { ...common, keep: step.keep, count: step.count, shiftFirst: step.shift_first, net: net(step.net),
        mask: step.mask === undefined ? null : read(step.mask), bound: bounds[bound.kind](bound) };
    }
    case "exit":
      return { ...common, keep: step.keep, prior: step.prior && { net: net(step.prior.net), max: step.prior.max } };
    default:
      return { ...common, order: step.order };
  }
}

if (typeof module !== "undefined") module.exports = { Flow };
