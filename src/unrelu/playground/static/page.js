// The page: its controls, their effects on the picture, and one request at a time to the server.

import { Picture } from "./painting.js";
import { showDifferences, showNothing, showValues } from "./showing.js";

const by = id => document.getElementById(id);
const MOST_BYTES = 20 * 2 ** 20;
const MOST_PIXELS = 50e6;
const LONGER = 10;

let generators = [];
let generator;
let picture;
let index = 0; // index of the next sample or digit
let wanted = null; // whether the next search may take longer; null if no search is wanted
let asking = false;
let long = null; // ends a longer search when another one is wanted
let loading = 0; // number of pictures being loaded

// --- the picture ---------------------------------------------------------------------------------------------------

const checked = name => document.querySelector(`input[name="${name}"]:checked`).value;
const range = () => generator.high - generator.low;
const observed = () => picture.observed(Number(by("added").value) * range(), checked("noise"));

function changed() {
  showValues(by("observation"), generator, observed(), picture.visible);
  ask();
}

// Screen pixels to coordinates of the picture.
function place(event) {
  const box = by("observation").getBoundingClientRect();
  const along = (at, from, length, pixels) => ((at - from) / length) * pixels;
  return [along(event.clientX, box.left, box.width, generator.width), along(event.clientY, box.top, box.height, generator.height)];
}

function stroke(from, to) {
  const radius = Math.max(0.5, (Number(by("brush").value) * generator.width) / 28 / 2);
  const tool = checked("tool");
  if (tool === "hide" || tool === "reveal") picture.cover(from, to, Math.max(1, radius), tool === "reveal");
  else picture.draw(from, to, radius, tool === "draw" ? ink() : Array(generator.channels).fill(generator.low));
  changed();
}

function ink() {
  if (generator.channels === 1) return [generator.high];
  return [1, 3, 5].map(i => generator.low + (range() * parseInt(by("colour").value.slice(i, i + 2), 16)) / 255);
}

function prepareDrawing() {
  const canvas = by("observation");
  let last = null;
  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    notice("");
    last = place(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", event => {
    if (!last) return;
    for (const move of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const next = place(move);
      stroke(last, next);
      last = next;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
}

function choose(name) {
  const before = generator;
  generator = generators.find(one => one.name === name);
  const alike = before && ["channels", "height", "width"].every(side => before[side] === generator[side]);
  const kept = picture;
  picture = new Picture(generator);
  if (alike) {
    const share = range() / (before.high - before.low);
    picture.values = kept.values.map(value => generator.low + (value - before.low) * share);
    [picture.visible, picture.seed] = [kept.visible, kept.seed];
  }
  by("about").textContent = `${generator.latent} latent coordinates to ${generator.height} × ${generator.width}` +
    `${generator.channels === 3 ? " × 3" : ""} values, black ${short(generator.low)}, white ${short(generator.high)}`;
  by("digit").hidden = by("centre").hidden = !generator.digits;
  by("ink").hidden = generator.channels !== 3;
  showLevels();
  nothing();
  changed();
}

// --- uploads -------------------------------------------------------------------------------------------------------

async function upload(file) {
  const name = file.name.length > 40 ? `${file.name.slice(0, 37)}...` : file.name;
  if (!file.size) return notice(`${name} is empty (0 bytes): choose a picture, a PNG or JPEG file.`);
  if (file.size > MOST_BYTES) {
    return notice(`${name} has ${Math.ceil(file.size / 2 ** 20)} MiB, and at most ${MOST_BYTES / 2 ** 20} MiB are read: save it smaller.`);
  }
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: url }));
    const pixels = image.naturalWidth * image.naturalHeight;
    if (pixels > MOST_PIXELS) {
      return notice(`${name} has ${image.naturalWidth} × ${image.naturalHeight} pixels, and at most ${MOST_PIXELS / 1e6} million are read: save it smaller.`);
    }
    if (!pixels) throw new Error("no size");
    picture.take(image);
    if (generator.digits && picture.paper) picture.swap(); // to bright ink on black, as these generators draw
    notice("");
    changed();
  } catch {
    notice(`${name} is no picture that this browser can read: save it as PNG or JPEG.`);
  } finally {
    URL.revokeObjectURL(url);
  }
  return undefined;
}

function prepareUploads() {
  const place = by("observation").closest("section");
  by("upload").addEventListener("change", async event => {
    const [file] = event.target.files;
    if (file) await arriving(upload(file));
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, event => {
      event.preventDefault(); // otherwise the browser would open the file in place of the page
      place.classList.toggle("dropping", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) arriving(upload(event.dataTransfer.files[0]));
    });
  }
}

async function begin(kind) {
  const asked = generator;
  const { y } = await post("/picture", { generator: asked.name, kind, index });
  if (asked !== generator) return;
  index += 1;
  picture.clear();
  picture.values = Float64Array.from(y);
  picture.seed = index + 1;
  changed();
}

// --- requests and answers ------------------------------------------------------------------------------------------

async function post(path, question, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal });
  } catch {
    if (signal?.aborted) return null;
    throw new Error("The playground does not answer: was it stopped? Start it again and reload this page.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.error[0].toUpperCase()}${answer.error.slice(1)}.`);
  return answer;
}

function question(longer) {
  const kind = checked("noise");
  const noise = kind === "unknown" ? null : { kind, level: Number(by("level").value) * range() };
  return { generator: generator.name, y: Array.from(observed()), visible: Array.from(picture.visible), noise, ...(longer && { seconds: LONGER }) };
}

// One request at a time; during a request, only the newest state is kept for the next one.
async function ask(longer = false) {
  wanted = longer;
  long?.abort();
  if (asking) return;
  asking = true;
  mark();
  while (wanted !== null) {
    const [asked, longer] = [generator, wanted];
    wanted = null;
    if (picture.blank && by("added").value === "0") {
      nothing();
    } else if (!picture.visible.includes(1)) {
      nothing("Everything is hidden: reveal a part of the picture.", "bad");
    } else {
      const begun = performance.now();
      const visible = picture.visible.slice();
      try {
        long = longer ? new AbortController() : null;
        if (long) by("status").textContent = "searching";
        const answer = await post("/invert", question(longer), long?.signal);
        long = null;
        if (answer && asked === generator) show(answer, visible, (performance.now() - begun) / 1000);
      } catch (error) {
        nothing(error.message, "bad");
      }
    }
  }
  asking = false;
  mark();
}

// For tests that wait until the page is idle.
function mark() {
  document.body.dataset.state = asking || loading ? "asking" : "idle";
}

async function arriving(picture) {
  loading += 1;
  mark();
  try {
    return await picture;
  } finally {
    loading -= 1;
    mark();
  }
}

function show(answer, visible, seconds) {
  if (!answer.reconstruction) {
    nothing(answer.verdict, "bad");
    by("longer").hidden = !answer.cut_off;
    return;
  }
  say(answer.verdict, answer.success ? "good" : answer.status === "MISFIT" ? "bad" : "other");
  by("status").textContent = answer.status;
  by("took").textContent = `in ${seconds < 0.0095 ? "under 0.01" : seconds.toFixed(2)} s`;
  by("longer").hidden = !answer.cut_off;
  showValues(by("reconstruction"), generator, answer.reconstruction, null);
  const scale = showDifferences(by("residual"), generator, answer.residual, visible);
  [by("least").textContent, by("most").textContent] = [`−${short(scale)}`, `+${short(scale)}`];
  by("facts").replaceChildren(...answer.facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

function nothing(sentence = "Draw a picture, let the generator draw one, or upload one.", kind = "none") {
  say(sentence, kind);
  for (const id of ["status", "took"]) by(id).textContent = "";
  [by("least").textContent, by("most").textContent] = ["−", "+"];
  by("longer").hidden = true;
  by("facts").replaceChildren();
  for (const id of ["reconstruction", "residual"]) showNothing(by(id), generator);
}

function say(sentence, kind) {
  by("sentence").textContent = sentence;
  by("verdict").dataset.kind = kind;
}

function notice(text) {
  by("notice").textContent = text;
  by("notice").hidden = !text;
}

// --- controls ------------------------------------------------------------------------------------------------------

const element = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
const short = value => String(Number(value.toPrecision(2)));

function showLevels() {
  const kind = checked("noise");
  by("stated").hidden = kind === "unknown";
  by("stated-name").textContent = kind === "uniform" ? "At most" : "Standard deviation";
  by("noise-note").textContent = kind === "unknown"
    ? "Without stated noise, a success is an exact fit, or a confidence of at least 0.99 in a fit that is no chance."
    : "With stated noise, a success is a p-value of at least 0.01: such noise could leave what is left over.";
  for (const id of ["added", "level"]) document.querySelector(`output[for="${id}"]`).value = (by(id).value * range()).toFixed(2);
  document.querySelector('output[for="brush"]').value = Number(by("brush").value).toFixed(1);
}

function prepareControls() {
  const press = (id, act) => by(id).addEventListener("click", () => {
    notice("");
    Promise.resolve(act()).catch(error => notice(error.message));
  });
  const change = act => () => { act(); changed(); };
  press("clear", change(() => picture.clear()));
  press("reveal-all", change(() => picture.visible.fill(1)));
  press("centre", change(() => picture.centre()));
  press("negative", change(() => picture.swap()));
  press("sample", () => arriving(begin("sample")));
  press("digit", () => arriving(begin("digit")));
  press("longer", () => ask(true));
  by("generator").addEventListener("change", event => choose(event.target.value));
  by("brush").addEventListener("input", showLevels);
  for (const id of ["added", "level"]) by(id).addEventListener("input", change(showLevels));
  for (const radio of document.querySelectorAll('input[name="noise"]')) radio.addEventListener("change", change(showLevels));
}

generators = await (await fetch("/generators")).json();
by("generator").replaceChildren(...generators.map(({ name }) => element("option", name)));
prepareDrawing();
prepareUploads();
prepareControls();
choose(generators[0].name);
