// The page of the explorer: what is moved, what is shown. The numbers come from explorer.js in a worker.
"use strict";
{
  const $ = (id) => document.getElementById(id);
  const make = (tag, settings = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), settings);
    element.append(...children);
    return element;
  };
  const MODELS = JSON.parse($("data").textContent);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  // ------------------------------------------------------------------------------------------ the worker
  // One question at a time. Of questions of one kind only the newest waits: a drag shows the latest value.

  const HANDLER = `
    const flows = {};
    onmessage = async ({ data: { kind, model, description, z, pixels, draws, many } }) => {
      try {
        if (description) flows[model] = await Flow.open(description);
        const flow = flows[model], began = performance.now();
        const answer = {
          load: () => flow.steps.length,
          decode: () => flow.decode(z),
          encode: () => flow.encode(pixels, draws),
          ends: () => many.map((one) => flow.encode(one, draws).z),
          strip: () => many.map((one) => flow.decode(one)),
          average: () => many.map((one) => flow.encode(pixels, one).bitsPerDim),
          trace: () => { const states = []; flow.decode(z, (i, x) => (states[i] = x)); return states; },
        }[kind]();
        postMessage({ answer, ms: performance.now() - began });
      } catch (error) { postMessage({ error: error.message }); }
    };`;
  const worker = new Worker(URL.createObjectURL(new Blob([$("engine").textContent, HANDLER], { type: "text/javascript" })));
  const waiting = new Map(), ORDER = ["load", "ends", "decode", "encode", "trace", "strip", "average"], took = {};
  let asked = null;

  function ask(kind, question, then) {
    waiting.set(kind, { question, then, model: S.key });
    next();
  }
  function next() {
    const kind = ORDER.find((one) => waiting.has(one));
    if (asked || !kind) return;
    asked = { kind, ...waiting.get(kind) };
    waiting.delete(kind);
    worker.postMessage({ kind, model: asked.model, ...asked.question });
  }
  worker.onmessage = ({ data: { answer, error, ms } }) => {
    const { kind, then, model } = asked;
    asked = null;
    // What was asked of a model that has been left is of no interest.
    if (model === S.key) {
      if (error && kind === "load") refuse(error);
      else if (error) say(`The flow could not do that: ${error}.`);
      else {
        (took[kind] ||= []).push(ms);
        then(answer);
      }
    }
    next();
  };

  // ------------------------------------------------------------------------------------------ state

  const S = { key: 0, z: [], noise: [], edit: [], temperature: [], shift: [], pixels: null, cell: null, tab: "latents", seed: 1 };
  const model = () => MODELS[S.key];
  const say = (text) => ($("status").textContent = text);

  function random(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
    };
  }
  function normals(count, seed) {
    const draw = random(seed);
    return Float64Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(draw())) * Math.cos(2 * Math.PI * draw()));
  }
  const draws = (seed = 7) => Float64Array.from({ length: model().size }, random(seed));
  const lengthOf = (shape) => shape.reduce((a, b) => a * b, 1);
  const zeros = () => model().levels.map((shape) => new Float64Array(lengthOf(shape)));
  const copy = (levels) => levels.map((level) => Float64Array.from(level));

  const moved = () => S.noise.map((level, i) =>
    level.map((v, k) => S.temperature[i] * v + S.shift[i] + S.edit[i][k]));

  // Latents were moved: the picture follows at once, its bits when the hand rests.
  let resting = null;
  function unrest() {
    clearTimeout(resting);
    resting = null;
  }
  function decode() {
    S.z = moved();
    S.way = "decode";
    paintLevels();
    glow("decode");
    ask("decode", { z: S.z }, (pixels) => {
      if (S.way !== "decode") return;
      show(pixels);
      say("");
      unrest();
      resting = setTimeout(() => {
        resting = null;
        ask("encode", { pixels, draws: draws() }, showBits);
      }, 90);
    });
    if (S.tab === "layers") trace();
  }
  function setLatents(levels) {
    S.noise = copy(levels);
    S.edit = zeros();
    S.temperature.fill(1);
    S.shift.fill(0);
    syncLevels();
    decode();
  }
  // The picture was changed: latents and bits follow.
  function setPicture(pixels, then) {
    S.way = "encode";
    show(pixels);
    unrest();
    glow("encode");
    ask("encode", { pixels, draws: draws() }, (found) => {
      if (S.way !== "encode") return;
      S.noise = copy(found.z);
      S.edit = zeros();
      S.temperature.fill(1);
      S.shift.fill(0);
      S.z = copy(found.z);
      syncLevels();
      paintLevels();
      showBits(found);
      say("");
      if (S.tab === "layers") trace();
      if (then) then(found);
    });
  }
  function glow(way) {
    const span = $(`${way}-way`);
    span.classList.add("on");
    requestAnimationFrame(() => requestAnimationFrame(() => span.classList.remove("on")));
  }

  // ------------------------------------------------------------------------------------------ painting

  const rgb = (name) => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
    const full = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
    return [0, 2, 4].map((i) => parseInt(full.slice(i, i + 2), 16));
  };
  const blend = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);

  function paint(canvas, width, height, colour) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let p = 0; p < width * height; p++) {
      const [r, g, b, a = 255] = colour(p);
      image.data.set([r, g, b, a], 4 * p);
    }
    context.putImageData(image, 0, 0);
  }
  // The colour of position p of a picture (C, H, W) whose numbers run from low to high.
  const greys = (pixels, [c, h, w], low, high) => (p) => {
    const at = (k) => (255 * (pixels[k * h * w + p] - low)) / (high - low);
    return c === 3 ? [at(0), at(1), at(2)] : [at(0), at(0), at(0)];
  };
  const paintPicture = (canvas, pixels, m = model()) =>
    paint(canvas, m.shape[2], m.shape[1], greys(pixels, m.shape, 0, m.grey_levels - 1));

  function show(pixels) {
    S.pixels = Uint8Array.from(pixels);
    if (S.tab !== "layers") paintPicture($("picture"), S.pixels);
  }
  // Numbers of any size: the mean is grey, two and a half standard deviations are black and white.
  function stretched(x) {
    const mean = x.reduce((a, b) => a + b, 0) / x.length;
    const deviation = Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length) || 1;
    return greys(x, model().shape, mean - 2.5 * deviation, mean + 2.5 * deviation);
  }

  // All channels of a level on one canvas, one pixel apart, in rows: so many that all levels together are a square.
  function grid([c, h, w]) {
    const offset = (k) => Math.abs(Math.log((k * k * (w + 1)) / (c * (h + 1) * model().levels.length)));
    const fits = Array.from({ length: c }, (_, i) => c - i).filter((k) => c % k === 0);
    const columns = fits.reduce((best, k) => (offset(k) < offset(best) - 1e-9 ? k : best));
    return { columns, width: columns * (w + 1) - 1, height: (c / columns) * (h + 1) - 1 };
  }
  function paintLevels() {
    const [minus, zero, plus] = ["--minus", "--zero", "--plus"].map(rgb);
    model().levels.forEach((shape, i) => {
      const [c, h, w] = shape, { columns, width, height } = grid(shape), level = S.z[i];
      paint($(`level-${i}`), width, height, (p) => {
        const y = Math.floor(p / width), x = p % width, k = Math.floor(y / (h + 1)) * columns + Math.floor(x / (w + 1));
        if (y % (h + 1) === h || x % (w + 1) === w || k >= c) return [0, 0, 0, 0];
        const v = level[(k * h + (y % (h + 1))) * w + (x % (w + 1))];
        return blend(zero, v < 0 ? minus : plus, Math.min(1, Math.abs(v) / 2.5) ** 0.8);
      });
    });
    paintCell();
  }
  function paintCell() {
    const { level, index } = S.cell, [, h, w] = model().levels[level];
    const k = Math.floor(index / (h * w)), y = Math.floor(index / w) % h, x = index % w;
    const { columns, width, height } = grid(model().levels[level]), mark = $("mark");
    $(`level-${level}`).parentElement.append(mark);
    mark.style.left = `${(100 * ((k % columns) * (w + 1) + x)) / width}%`;
    mark.style.top = `${(100 * (Math.floor(k / columns) * (h + 1) + y)) / height}%`;
    Object.assign(mark.style, { width: `${100 / width}%`, height: `${100 / height}%` });
    const v = S.z[level][index];
    $("cell-name").textContent = `level ${level}, channel ${k + 1}, row ${y + 1}, column ${x + 1}`;
    $("value").value = v;
    $("value-out").textContent = v.toFixed(2);
    $(`level-${level}`).setAttribute("aria-label",
      `Latents of level ${level}. Selected: channel ${k + 1}, row ${y + 1}, column ${x + 1}, value ${v.toFixed(2)}`);
  }

  const RULER = [0.05, 32];
  const along = (bits) => (100 * Math.log(clamp(bits, ...RULER) / RULER[0])) / Math.log(RULER[1] / RULER[0]);
  function showBits(found) {
    const { map, layers, latents, bitsPerDim } = found;
    S.found = found;
    S.bits = bitsPerDim;
    $("bits").textContent = bitsPerDim.toFixed(3);
    const [c, h, w] = model().shape, [low, high] = [rgb("--bits-low"), rgb("--bits-high")];
    const values = Float64Array.from(map), sorted = Float64Array.from(map).sort();
    // The same scale for all pictures: strong is what a guess among all grey levels costs.
    const top = c * Math.log2(model().grey_levels);
    paint($("map"), w, h, (p) => blend(low, high, clamp(values[p] / top, 0, 1)));
    $("map").setAttribute("aria-label", `Bits of each pixel, from ${sorted[0].toFixed(1)} to ${sorted[sorted.length - 1].toFixed(1)}`);
    $("map-note").textContent = `faint: 0 bits or fewer; strong: ${top.toFixed(0)} or more, as many as a guess`;
    const rows = [["Dequantization", layers[0]]];
    model().levels.forEach((_, i) => {
      const which = model().levels.length > 1 ? `Level ${i} ` : "";
      rows.push([`${which}layers`, layers[i + 1]], [`${which}latents`, latents[i]]);
    });
    const largest = Math.max(...rows.map(([, v]) => Math.abs(v)));
    $("parts").tBodies[0].replaceChildren(...rows.map(([name, v]) => {
      const bar = make("i", { className: v < 0 ? "earned" : "" });
      bar.style[v < 0 ? "right" : "left"] = "50%";
      bar.style.width = `${(50 * Math.abs(v)) / largest}%`;
      return make("tr", {}, make("td", { textContent: name }), make("td", { textContent: (v / model().size).toFixed(2).replace("-", "−") }),
        make("td", {}, make("div", { className: "track" }, bar)));
    }));
    $("needle").style.left = `${along(bitsPerDim)}%`;
    const lower = model().test_bits.filter((b) => b < bitsPerDim).length / model().test_bits.length;
    $("ruler").setAttribute("aria-label",
      `This picture: ${bitsPerDim.toFixed(2)} bits/dim; ${Math.round(100 * lower)} percent of test images have fewer`);
  }
  function buildRuler() {
    const draw = random(3), guess = Math.log2(model().grey_levels);
    const dots = model().test_bits.map((b) => {
      const dot = make("i");
      Object.assign(dot.style, { left: `${along(b)}%`, top: `${12 + 74 * draw()}%` });
      return dot;
    });
    const ticks = [0.1, 0.3, 1, 3, 10].map((b) => {
      const tick = make("span", { textContent: b });
      tick.style.left = `${along(b)}%`;
      return tick;
    });
    const line = make("s", { title: "Guessing every value" });
    line.style.left = `${along(guess)}%`;
    $("ruler").replaceChildren(...dots, line, ...ticks, make("b", { id: "needle" }));
  }

  // ------------------------------------------------------------------------------------------ latents

  function buildLevels() {
    const parts = model().levels.length;
    $("levels").replaceChildren(...model().levels.map(([c, h, w], i) => {
      const canvas = make("canvas", { id: `level-${i}`, tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `Latents of level ${i}`);
      canvas.setAttribute("aria-roledescription", "map of latents");
      canvas.addEventListener("pointerdown", (event) => dragCell(event, i));
      canvas.addEventListener("keydown", (event) => keyCell(event, i));
      const which = i === 0 ? "finest" : i === parts - 1 ? "coarsest" : "";
      const head = make("h3", { textContent: parts > 1 ? `Level ${i} ` : "All latents " },
        make("span", { textContent: `${which && parts > 1 ? which + ", " : ""}${c} channel${c > 1 ? "s" : ""} of ${h} × ${w}` }));
      return make("div", { className: "level" }, head, make("div", { className: "board" }, canvas));
    }));
    $("levels").append(make("span", { id: "mark", className: "cell" }));
    $("level-controls").replaceChildren(...model().levels.map((_, i) => {
      const name = parts > 1 ? `Level ${i}` : "All latents";
      const noise = make("button", { type: "button", textContent: "New noise", id: `noise-${i}` });
      noise.setAttribute("aria-label", `New noise for ${name.toLowerCase()}`);
      noise.addEventListener("click", () => resample(i));
      return make("div", { className: "card" }, make("h2", { textContent: name }), noise,
        slider(`temperature-${i}`, "Temperature", 0, 1.5, (v) => { S.temperature[i] = v; decode(); }),
        slider(`shift-${i}`, "Shift", -2, 2, (v) => { S.shift[i] = v; decode(); }));
    }));
    const [, h, w] = model().levels[parts - 1];
    S.cell = { level: parts - 1, index: (h >> 1) * w + (w >> 1) };
  }
  function slider(id, label, min, max, change) {
    const input = make("input", { type: "range", id, min, max, step: 0.01 }), out = make("output", { id: `${id}-out` });
    input.setAttribute("aria-describedby", "level-hint");
    input.addEventListener("input", () => {
      out.textContent = (+input.value).toFixed(2);
      change(+input.value);
    });
    return make("div", {}, make("label", { htmlFor: id, textContent: label }), make("div", { className: "slide" }, input, out));
  }
  function syncLevels() {
    for (const what of ["temperature", "shift"])
      S[what].forEach((v, i) => {
        $(`${what}-${i}`).value = v;
        $(`${what}-${i}-out`).textContent = v.toFixed(2);
      });
  }
  function resample(i) {
    S.noise[i] = normals(S.noise[i].length, S.seed++);
    S.edit[i].fill(0);
    decode();
  }
  // Changes the selected latent by an amount, and what moves with it.
  function move(amount) {
    const { level, index } = S.cell, [, h, w] = model().levels[level], area = h * w, edit = S.edit[level];
    const reach = document.querySelector("[name=reach]:checked").value, k = Math.floor(index / area);
    const y = Math.floor(index / w) % h, x = index % w;
    for (let p = 0; p < area; p++) {
      const distance = Math.hypot(Math.floor(p / w) - y, (p % w) - x);
      const share = reach === "channel" ? 1 : reach === "near" ? Math.exp(-distance * distance / 2) : +(distance === 0);
      edit[k * area + p] += share * amount;
    }
    decode();
  }
  function cellAt(event, i) {
    const shape = model().levels[i], [c, h, w] = shape, { columns, width, height } = grid(shape);
    const box = event.currentTarget.getBoundingClientRect();
    const x = clamp(Math.floor(((event.clientX - box.left) / box.width) * width), 0, width - 1);
    const y = clamp(Math.floor(((event.clientY - box.top) / box.height) * height), 0, height - 1);
    const k = Math.min(c - 1, Math.floor(y / (h + 1)) * columns + Math.floor(x / (w + 1)));
    return (k * h + Math.min(h - 1, y % (h + 1))) * w + Math.min(w - 1, x % (w + 1));
  }
  function dragCell(event, i) {
    event.preventDefault();
    const canvas = event.currentTarget;
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    S.cell = { level: i, index: cellAt(event, i) };
    paintCell();
    let last = event.clientY;
    const drag = (e) => {
      move((last - e.clientY) / 30);
      last = e.clientY;
    };
    canvas.addEventListener("pointermove", drag);
    const stop = () => canvas.removeEventListener("pointermove", drag);
    canvas.addEventListener("pointerup", stop, { once: true });
    canvas.addEventListener("pointercancel", stop, { once: true });
  }
  function keyCell(event, i) {
    const size = S.z[i].length, w = model().levels[i][2];
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -w, ArrowDown: w }[event.key];
    const amount = { "+": 0.25, "=": 0.25, "-": -0.25, "−": -0.25 }[event.key];
    if (!step && !amount) return;
    event.preventDefault();
    if (S.cell.level !== i) S.cell = { level: i, index: 0 };
    else if (step) S.cell.index = clamp(S.cell.index + step, 0, size - 1);
    if (amount) move(amount);
    else paintCell();
  }
  $("value").addEventListener("input", () => move(+$("value").value - S.z[S.cell.level][S.cell.index]));
  $("sample").addEventListener("click", () => {
    for (const button of $("starts").querySelectorAll("button")) button.setAttribute("aria-pressed", false);
    setLatents(model().levels.map((shape) => normals(lengthOf(shape), S.seed++)));
  });
  $("reset").addEventListener("click", () => setLatents(S.noise));

  function thumbs(box, label, pictures, choose, chosen = () => false) {
    box.replaceChildren(...(label ? [make("span", { textContent: label })] : []), ...pictures.map(([pixels, name, m], i) => {
      const canvas = make("canvas");
      paintPicture(canvas, pixels, m);
      canvas.setAttribute("aria-hidden", "true");
      const button = make("button", { type: "button", title: name }, canvas);
      button.setAttribute("aria-label", name);
      button.setAttribute("aria-pressed", chosen(i));
      button.addEventListener("click", () => {
        for (const other of box.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
        choose(i);
      });
      return button;
    }));
  }
  const images = () => model().pictures.map((pixels, i) => [pixels, `Test image ${i + 1}${model().labels ? `: ${model().labels[i]}` : ""}`]);

  // ------------------------------------------------------------------------------------------ walk

  const W = { a: 0, b: 1, za: null, zb: null, playing: false };
  const kind = () => document.querySelector("[name=walk]:checked").value;
  function startWalk() {
    const classes = kind() === "classes";
    $("class-choice").hidden = !classes;
    $("walk-b").hidden = classes;
    $("walk-note").textContent = classes ? "Start from this picture:"
      : "From A to B on an arc, which keeps the latents as far from 0 as noise is.";
    const from = model().pictures[W.a], to = model().pictures[W.b];
    // Both ends are encoded once; every step between them is decoded.
    ask("ends", { many: [from, to], draws: draws() }, ([a, b]) => {
      Object.assign(W, { za: a, zb: b });
      walkTo(+$("walk").value);
      ask("strip", { many: Array.from({ length: 9 }, (_, i) => between(i / 8)) }, paintStrip);
    });
  }
  function between(t) {
    if (kind() === "classes") {
      const from = model().means[$("class-a").value], to = model().means[$("class-b").value];
      let at = 0;
      return W.za.map((level) => level.map((v) => v + 1.6 * t * (to[at] - from[at++])));
    }
    const dot = (u, v) => u.reduce((s, level, i) => s + level.reduce((q, x, k) => q + x * v[i][k], 0), 0);
    const angle = Math.acos(clamp(dot(W.za, W.zb) / Math.sqrt(dot(W.za, W.za) * dot(W.zb, W.zb)), -1, 1));
    const p = Math.sin((1 - t) * angle) / Math.sin(angle), q = Math.sin(t * angle) / Math.sin(angle);
    return angle < 1e-6 ? copy(W.za) : W.za.map((level, i) => level.map((v, k) => p * v + q * W.zb[i][k]));
  }
  function walkTo(t) {
    $("walk").value = t;
    $("walk-out").textContent = (+t).toFixed(2);
    if (W.za && W.zb) setLatents(between(+t));
  }
  function paintStrip(pictures) {
    const [, h, w] = model().shape, canvas = $("strip"), one = make("canvas");
    Object.assign(canvas, { width: 9 * (w + 1) - 1, height: h });
    pictures.forEach((pixels, i) => {
      paintPicture(one, pixels);
      canvas.getContext("2d").drawImage(one, i * (w + 1), 0);
    });
  }
  async function play(button, run) {
    if (button.textContent === "Stop") return (button.textContent = "Play");
    button.textContent = "Stop";
    await run(() => button.textContent === "Stop");
    button.textContent = "Play";
  }
  // Waits until the worker has answered everything, so that no frame of an animation is skipped.
  async function frame(ms) {
    await wait(ms);
    while (asked || waiting.has("decode")) await wait(5);
  }
  $("walk-play").addEventListener("click", () => play($("walk-play"), async (going) => {
    for (let i = 1; i <= 80 && going(); i++) {
      walkTo((1 - Math.cos((2 * Math.PI * i) / 80)) / 2);
      await frame(25);
    }
  }));
  $("walk").addEventListener("input", () => walkTo($("walk").value));
  for (const input of document.getElementsByName("walk")) input.addEventListener("change", startWalk);
  for (const id of ["class-a", "class-b"]) $(id).addEventListener("change", startWalk);

  // ------------------------------------------------------------------------------------------ draw

  const pen = { y: 0, x: 0 };
  function dab(y, x) {
    const [c, h, w] = model().shape, K = model().grey_levels - 1, radius = +$("brush").value / 2;
    const erase = document.querySelector("[name=pen]:checked").value === "erase";
    const hex = c === 3 && !erase ? $("colour").value : erase ? "#000000" : "#ffffff";
    const ink = [1, 3, 5].map((i) => Math.round((parseInt(hex.slice(i, i + 2), 16) / 255) * K));
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) {
        // A soft edge of one pixel, as scanned strokes have.
        const cover = clamp(radius + 0.5 - Math.hypot(i + 0.5 - y, j + 0.5 - x), 0, 1);
        for (let k = 0; k < c; k++) {
          const p = (k * h + i) * w + j, wanted = S.pixels[p] + cover * (ink[k] - S.pixels[p]);
          if (c === 3 || (erase ? wanted < S.pixels[p] : wanted > S.pixels[p])) S.pixels[p] = Math.round(wanted);
        }
      }
  }
  function stroke(y, x) {
    const steps = Math.max(1, Math.ceil(3 * Math.hypot(y - pen.y, x - pen.x)));
    for (let i = 1; i <= steps; i++) dab(pen.y + ((y - pen.y) * i) / steps, pen.x + ((x - pen.x) * i) / steps);
    Object.assign(pen, { y, x });
    setPicture(S.pixels);
  }
  const place = (event) => {
    const box = $("picture").getBoundingClientRect(), [, h, w] = model().shape;
    return [((event.clientY - box.top) / box.height) * h, ((event.clientX - box.left) / box.width) * w];
  };
  $("picture").addEventListener("pointerdown", (event) => {
    if (S.tab !== "draw") return;
    event.preventDefault();
    $("picture").setPointerCapture(event.pointerId);
    const [y, x] = place(event);
    Object.assign(pen, { y, x });
    stroke(y, x);
    $("picture").onpointermove = (e) => stroke(...place(e));
    $("picture").onpointerup = $("picture").onpointercancel = () => ($("picture").onpointermove = null);
  });
  $("picture").addEventListener("keydown", (event) => {
    const [, h, w] = model().shape, step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (S.tab !== "draw" || (!step && event.key !== " ")) return;
    event.preventDefault();
    if (!step) return stroke(pen.y, pen.x);
    const y = clamp(pen.y + step[0], 0.5, h - 0.5), x = clamp(pen.x + step[1], 0.5, w - 0.5);
    // With Shift the pen is down.
    if (event.shiftKey) stroke(y, x);
    else Object.assign(pen, { y, x });
    paintPen();
  });
  function paintPen() {
    const [, h, w] = model().shape, mark = $("cursor");
    mark.hidden = S.tab !== "draw" || document.activeElement !== $("picture");
    Object.assign(mark.style, { left: `${(100 * (pen.x - 0.5)) / w}%`, top: `${(100 * (pen.y - 0.5)) / h}%`,
      width: `${100 / w}%`, height: `${100 / h}%` });
  }
  for (const kind of ["focus", "blur"]) $("picture").addEventListener(kind, paintPen);
  $("clear").addEventListener("click", () => setPicture(new Uint8Array(model().size)));
  $("brush").addEventListener("input", () => ($("brush-out").textContent = (+$("brush").value).toFixed(1)));
  $("average").addEventListener("click", () =>
    ask("average", { pixels: S.pixels, many: Array.from({ length: 8 }, (_, i) => draws(100 + i)) }, (bits) => {
      const mean = bits.reduce((a, b) => a + b, 0) / 8;
      const error = Math.sqrt(bits.reduce((a, b) => a + (b - mean) ** 2, 0) / 7 / 8);
      $("average-note").textContent = `Mean of 8 draws: ${mean.toFixed(3)} ± ${error.toFixed(3)} bits/dim.`;
    }));

  // ------------------------------------------------------------------------------------------ layers

  const ABOUT = {
    squeeze: "puts each 2 × 2 block of pixels into channels",
    coupling: "keeps one part and scales and shifts the other by amounts that a network reads off the kept part",
    actnorm: "shifts and scales each channel",
    conv1x1: "mixes the channels of each position by a matrix",
    flip: "reverses the order of the channels",
    permute: "reorders the channels",
    exit: "half of the channels leaves as the latents of this level",
  };
  const FILM = 10;
  let states = [];
  function trace() {
    ask("trace", { z: S.z }, (found) => {
      states = found;
      const canvas = $("film"), one = make("canvas"), [, h, w] = model().shape;
      Object.assign(canvas, { width: FILM * (w + 1) - 1, height: Math.ceil(states.length / FILM) * (h + 1) - 1 });
      states.forEach((x, i) => {
        paint(one, w, h, stretched(x));
        canvas.getContext("2d").drawImage(one, (i % FILM) * (w + 1), Math.floor(i / FILM) * (h + 1));
      });
      stepTo(+$("step").value);
    });
  }
  function stepTo(i) {
    const steps = model().steps, step = steps[i - 1];
    $("step").value = i;
    $("step-out").textContent = `${i}/${steps.length}`;
    $("step-name").textContent = i === 0 ? "The picture, with noise that makes its integers continuous."
      : `After layer ${i}, level ${step.level}: ${step.name} ${ABOUT[step.op]}.`;
    if (states[i]) paint($("picture"), model().shape[2], model().shape[1], stretched(states[i]));
    $("picture-note").textContent = i === 0 ? "" : i === steps.length ? "all latents, at their places" : `after ${i} of ${steps.length} layers`;
    const { width, height } = $("film"), [, h, w] = model().shape, mark = $("frame").style;
    mark.left = `${(100 * (i % FILM) * (w + 1)) / width}%`;
    mark.top = `${(100 * Math.floor(i / FILM) * (h + 1)) / height}%`;
    Object.assign(mark, { width: `${(100 * w) / width}%`, height: `${(100 * h) / height}%` });
  }
  $("step").addEventListener("input", () => stepTo(+$("step").value));
  $("film").addEventListener("click", (event) => {
    const box = $("film").getBoundingClientRect(), [, h] = model().shape;
    const row = Math.floor(((event.clientY - box.top) / box.height) * (($("film").height + 1) / (h + 1)));
    const column = Math.floor(((event.clientX - box.left) / box.width) * FILM);
    stepTo(clamp(row * FILM + column, 0, states.length - 1));
  });
  $("step-play").addEventListener("click", () => play($("step-play"), async (going) => {
    const last = model().steps.length, back = +$("step").value === last;
    for (let i = back ? last : 0; i >= 0 && i <= last && going(); i += back ? -1 : 1) {
      stepTo(i);
      await wait(clamp(4000 / last, 60, 250));
    }
  }));

  // ------------------------------------------------------------------------------------------ break

  const BREAKERS = {
    "Random values": (x, K, draw) => x.map(() => Math.floor(draw() * K)),
    "All black": (x) => x.map(() => 0),
    "All white": (x, K) => x.map(() => K - 1),
    "All grey": (x, K) => x.map(() => K >> 1),
    "Negative": (x, K) => x.map((v) => K - 1 - v),
    "Upside down": (x, K, draw, [c, h, w]) => x.map((_, i) => x[i - (i % (h * w)) + h * w - 1 - (i % (h * w))]),
    "Shuffled pixels": (x, K, draw) => {
      for (let i = x.length - 1; i > 0; i--) {
        const k = Math.floor(draw() * (i + 1));
        [x[i], x[k]] = [x[k], x[i]];
      }
      return x;
    },
    "Stripes": (x, K, draw, [c, h, w]) => x.map((_, i) => (Math.floor(i / w) % 2 ? K - 1 : 0)),
  };
  // What the buttons change, and what random pixels are mixed into.
  let intact = null, whole = null;
  function broken(pixels) {
    whole = Uint8Array.from(pixels);
    $("mix").value = 0;
    $("mix-out").textContent = "0 %";
    setPicture(pixels);
  }
  function buildBreakers() {
    $("breakers").replaceChildren(...Object.entries(BREAKERS).map(([name, change]) => {
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () =>
        broken(change(Uint8Array.from(intact), model().grey_levels, random(S.seed++), model().shape)));
      return button;
    }));
    const others = MODELS.filter((m) => m !== model() && m.pictures);
    const pictures = others.flatMap((m) => m.pictures.filter((_, i) => i % 4 === 0).map((pixels) => [pixels, `An image of ${m.name}`, m]));
    $("strangers-part").hidden = !pictures.length;
    thumbs($("strangers"), "", pictures, (i) => broken((intact = resized(pictures[i][0], pictures[i][2]))));
  }
  // Another model's image in this one's size, channels and grey levels, linear between pixels.
  function resized(pixels, { shape: [c0, h0, w0], grey_levels: K0 }) {
    const [c, h, w] = model().shape, K = model().grey_levels;
    const at = (k, y, x) => pixels[(k * h0 + clamp(y, 0, h0 - 1)) * w0 + clamp(x, 0, w0 - 1)] / (K0 - 1);
    const grey = (y, x) => Array.from({ length: c0 }, (_, k) => at(k, y, x)).reduce((a, b) => a + b) / c0;
    return Uint8Array.from({ length: c * h * w }, (_, i) => {
      const k = Math.floor(i / (h * w)), y = ((Math.floor(i / w) % h) + 0.5) * h0 / h - 0.5, x = ((i % w) + 0.5) * w0 / w - 0.5;
      const read = c === c0 ? (a, b) => at(k, a, b) : grey, y0 = Math.floor(y), x0 = Math.floor(x), v = y - y0, u = x - x0;
      const value = (1 - v) * ((1 - u) * read(y0, x0) + u * read(y0, x0 + 1)) + v * ((1 - u) * read(y0 + 1, x0) + u * read(y0 + 1, x0 + 1));
      return Math.round(value * (K - 1));
    });
  }
  $("mix").addEventListener("input", () => {
    const share = +$("mix").value, draw = random(11), K = model().grey_levels;
    $("mix-out").textContent = `${Math.round(100 * share)} %`;
    setPicture(whole.map((v) => {
      const here = draw(), other = Math.floor(draw() * K);
      return here < share ? other : v;
    }));
  });

  // ------------------------------------------------------------------------------------------ tabs, models, page

  const TABS = ["latents", "walk", "draw", "layers", "break"];
  function open(tab) {
    const before = S.tab;
    S.tab = tab;
    for (const one of TABS) {
      $(`tab-${one}`).setAttribute("aria-selected", one === tab);
      $(`tab-${one}`).tabIndex = one === tab ? 0 : -1;
      $(`panel-${one}`).hidden = one !== tab;
    }
    $("walk-play").textContent = $("step-play").textContent = "Play";
    $("picture-panel").classList.toggle("drawing", tab === "draw");
    $("picture").setAttribute("aria-label", tab === "draw"
      ? "The picture: arrow keys move the pen, space draws a dot, Shift with arrows draws a line" : "The picture");
    $("picture").setAttribute("role", tab === "draw" ? "application" : "img");
    $("picture-note").textContent = tab === "draw" ? "draw here" : "";
    paintPen();
    if (before === "layers" && S.pixels) paintPicture($("picture"), S.pixels);
    if (tab === "layers") trace();
    if (tab === "walk") startWalk();
    if (tab === "break") intact = whole = Uint8Array.from(S.pixels);
  }
  TABS.forEach((tab, i) => {
    $(`tab-${tab}`).addEventListener("click", () => open(tab));
    $(`tab-${tab}`).addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const other = TABS[(i + step + TABS.length) % TABS.length];
      open(other);
      $(`tab-${other}`).focus();
    });
  });

  function refuse(error) {
    $("refused").hidden = false;
    $("refused").textContent = `${model().name} is refused: ${error}. Write the page again with nbflows explore.`;
    document.querySelector(".stage").hidden = document.querySelector(".side").hidden = true;
  }
  function choose(i) {
    S.key = i;
    S.found = null;
    waiting.clear();
    unrest();
    const m = model(), { shape, grey_levels, levels, steps, kernels } = JSON.parse(m.description.program);
    Object.assign(m, { shape, grey_levels, levels, steps, size: lengthOf(shape) });
    S.temperature = levels.map(() => 1);
    S.shift = levels.map(() => 0);
    S.noise = zeros();
    S.edit = zeros();
    S.z = zeros();
    $("refused").hidden = true;
    document.querySelector(".stage").hidden = document.querySelector(".side").hidden = false;
    buildLevels();
    buildRuler();
    syncLevels();
    paintLevels();
    thumbs($("starts"), "", images(), (k) => setPicture(m.pictures[k]), (k) => k === 0);
    Object.assign(W, { a: 0, b: m.pictures.length > 1 ? Math.floor(m.pictures.length / 2) : 0, za: null, zb: null });
    thumbs($("walk-a"), "A", images(), (k) => { W.a = k; startWalk(); }, (k) => k === W.a);
    thumbs($("walk-b"), "B", images(), (k) => { W.b = k; startWalk(); }, (k) => k === W.b);
    $("walk-classes").hidden = !m.means;
    if (m.means) {
      for (const id of ["class-a", "class-b"])
        $(id).replaceChildren(...Object.keys(m.means).map((name) => make("option", { textContent: name })));
      if (m.labels) $("class-a").value = m.labels[0];
      $("class-b").selectedIndex = m.labels ? Object.keys(m.means).length - 1 : 1;
    } else document.querySelector("[name=walk][value=images]").checked = true;
    $("walk").value = 0;
    $("step").max = steps.length;
    $("step").value = 0;
    $("brush").max = Math.max(2, shape[2] / 8);
    $("brush").value = shape[2] / 16;
    $("brush-out").textContent = (+$("brush").value).toFixed(1);
    $("colour-label").hidden = shape[0] !== 3;
    Object.assign(pen, { y: shape[1] / 2, x: shape[2] / 2 });
    buildBreakers();
    $("about").textContent = `${m.name}: ${m.about} Kernels in ${kernels}. SHA-256 of what is computed here: ${m.description.sha256}.` +
      (m.published ? ` Published file: ${m.published}.` : "");
    S.pixels = m.pictures[0];
    open(S.tab);
    paintPicture($("picture"), S.pixels);
    ask("load", m.loaded ? {} : { description: m.description }, () => {
      m.loaded = true;
      setPicture(m.pictures[0]);
      if (S.tab === "walk") startWalk();
    });
  }

  MODELS.forEach((m, i) => {
    m.pictures = m.pictures.map(bytesOf);
    // Mean latents in steps of 1/40: enough for a direction.
    if (m.means) for (const name in m.means) m.means[name] = Float64Array.from(Int8Array.from(bytesOf(m.means[name])), (v) => v / 40);
    const input = make("input", { type: "radio", name: "model", value: i, checked: i === 0 });
    input.addEventListener("change", () => choose(i));
    $("models").append(make("label", {}, input, m.name));
    m.shape = JSON.parse(m.description.program).shape;
    m.grey_levels = JSON.parse(m.description.program).grey_levels;
  });

  function theme(name) {
    document.documentElement.dataset.theme = name;
    $("theme").textContent = name === "dark" ? "Light" : "Dark";
    if (S.cell) {
      paintLevels();
      if (S.found) showBits(S.found);
    }
  }
  theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  $("full").addEventListener("click", () =>
    document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  document.addEventListener("fullscreenchange", () =>
    ($("full").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen"));

  // ------------------------------------------------------------------------------------------ tour

  async function glide(change, from, to, ms, going) {
    const frames = calm ? 1 : Math.max(1, Math.round(ms / 40));
    for (let i = 1; i <= frames && going(); i++) {
      change(from + ((to - from) * i) / frames);
      await frame(25);
    }
  }
  const set = (id) => (v) => {
    $(id).value = v;
    $(id).dispatchEvent(new Event("input"));
  };
  const TOUR = [
    ["Picture in, latents out", "A flow is an invertible network. It has turned this picture into its latents: as many numbers as there are pixel values, blue below 0 and orange above. Nothing is lost, so it can run backwards.",
      "latents", "latents-panel", async () => setPicture(model().pictures[0])],
    ["Noise in, picture out", "Here the latents are pure noise, and the flow runs backwards. That is all there is to sampling. Every draw gives another picture.",
      "latents", "picture-panel", async (going) => { for (let i = 0; i < 4 && going(); i++) { $("sample").click(); await wait(1600); } }],
    ["One number", "One latent of the coarsest level moves from −4 to 4. It changes a whole region: a coarse latent sees most of the picture.",
      "latents", "picture-panel", async (going) => {
        const last = model().levels.length - 1;
        const [, h, w] = model().levels[last];
        S.cell = { level: last, index: (h >> 1) * w + (w >> 1) };
        await glide(set("value"), 0, -4, 1500, going);
        await glide(set("value"), -4, 4, 3000, going);
        await glide(set("value"), 4, 0, 1500, going);
      }],
    ["Fine and coarse", "Now the finest level gets new noise, again and again: edges and texture change, the shape stays. Then the coarsest level does, and it becomes another picture.",
      "latents", "latents-panel", async (going) => {
        const last = model().levels.length - 1;
        for (let i = 0; i < 8 && going(); i++) { resample(i < 4 ? 0 : last); await wait(1100); }
      }],
    ["Temperature", "Temperature scales the latents. Towards 0 every picture becomes the most typical one, smooth and without surprise. Above 1 it falls apart.",
      "latents", "picture-panel", async (going) => {
        const all = (v) => model().levels.forEach((_, i) => set(`temperature-${i}`)(v));
        await glide(all, 1, 0, 2500, going);
        await glide(all, 0, 1.5, 4000, going);
        await glide(all, 1.5, 1, 1000, going);
      }],
    ["A walk", "Two test images are two points in the space of latents. We walk from one to the other and decode on the way. Between them there are still pictures, though not always good ones.",
      "walk", "picture-panel", async (going) => { await wait(700); await glide(set("walk"), 0, 1, 6000, going); }],
    ["The price of a picture", "Forwards, the flow says how probable a picture is, in bits per pixel value. The map shows which pixels cost most: edges, where the flow is least sure. Even surfaces cost little.",
      "draw", "bits-panel", async () => setPicture(model().pictures[0])],
    ["Layer by layer", "This is the way from the picture to noise, one layer after the other. No single layer does much. Each is simple to invert; together they forget nothing.",
      "layers", "picture-panel", async (going) => { await glide((v) => stepTo(Math.round(v)), 0, model().steps.length, 9000, going); }],
    ["Break it", "Random values cost far more bits than any test image. Now look where the ruler puts an all-black picture: for many flows it costs less than a test image, though it looks like none. Probable does not mean typical.",
      "break", "bits-panel", async (going) => {
        $("breakers").children[0].click();
        await wait(4000);
        if (going()) $("breakers").children[1].click();
      }],
    ["Your turn", "Draw with mouse or finger. How few bits can you get? Then move the latents.",
      "draw", "picture-panel", async () => $("clear").click()],
  ];
  const T = { at: 0, run: 0 };
  async function tourTo(i) {
    const run = ++T.run, going = () => T.run === run, [title, text, tab, light, act] = TOUR[i];
    T.at = i;
    $("tour").hidden = false;
    document.body.classList.add("touring");
    $("tour-title").textContent = title;
    $("tour-text").textContent = text;
    $("tour-count").textContent = `${i + 1} of ${TOUR.length}`;
    $("tour-bar").style.width = `${(100 * (i + 1)) / TOUR.length}%`;
    $("tour-back").disabled = i === 0;
    $("tour-next").textContent = i === TOUR.length - 1 ? "Done" : "Next";
    for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
    $(light).classList.add("lit");
    open(tab);
    $(light).scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    $("tour-title").focus({ preventScroll: true });
    await act(going);
    for (let ms = 0; ms < 9000 && going(); ms += 100) await wait(100);
    if (going() && $("tour-auto").getAttribute("aria-pressed") === "true") i + 1 < TOUR.length ? tourTo(i + 1) : endTour();
  }
  function endTour() {
    T.run++;
    $("tour").hidden = true;
    document.body.classList.remove("touring");
    for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
    $("tour-start").focus();
  }
  $("tour-start").addEventListener("click", () => tourTo(0));
  $("tour-next").addEventListener("click", () => (T.at + 1 < TOUR.length ? tourTo(T.at + 1) : endTour()));
  $("tour-back").addEventListener("click", () => tourTo(Math.max(0, T.at - 1)));
  $("tour-end").addEventListener("click", endTour);
  $("tour-auto").addEventListener("click", () => {
    const on = $("tour-auto").getAttribute("aria-pressed") !== "true";
    $("tour-auto").setAttribute("aria-pressed", on);
    if (on) tourTo(T.at);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("tour").hidden) endTour();
  });

  // For tests and for the curious: what is shown, and how long the worker took.
  window.explorer = { state: S, models: MODELS, took, idle: () => !asked && !waiting.size && resting === null };
  choose(0);
}
