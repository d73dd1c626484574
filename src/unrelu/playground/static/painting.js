// A picture as numbers in the generator's values, and changes of it: strokes, noise, uploads. Nothing is drawn on the
// screen here. Pixels are stored row by row, with one plane per channel, as in the generator's outputs.

export class Picture {
  constructor(generator) {
    this.generator = generator;
    const { channels, height, width, low } = generator;
    this.pixels = height * width;
    this.values = new Float64Array(channels * this.pixels).fill(low);
    this.visible = new Uint8Array(this.pixels).fill(1);
    this.seed = 1;
  }

  get blank() {
    return this.values.every(value => value === this.generator.low);
  }

  clear() {
    this.values.fill(this.generator.low);
    this.visible.fill(1);
  }

  // A segment of a stroke, with a radius in pixels. Ink has one value per channel, and covers the share that the brush covers.
  draw(from, to, radius, ink) {
    this.#along(from, to, radius, (i, share) => {
      ink.forEach((value, channel) => {
        const at = channel * this.pixels + i;
        const mixed = this.values[at] + share * (value - this.values[at]);
        this.values[at] = value > this.generator.low ? Math.max(this.values[at], mixed) : mixed;
      });
    });
  }

  cover(from, to, radius, visible) {
    this.#along(from, to, radius, (i, share) => {
      if (share >= 0.5) this.visible[i] = visible ? 1 : 0;
    });
  }

  // Visit every pixel near the segment, with the share of it that a round brush covers.
  #along([x0, y0], [x1, y1], radius, touch) {
    const { height, width } = this.generator;
    const [dx, dy] = [x1 - x0, y1 - y0];
    const length = dx * dx + dy * dy;
    const reach = radius + 1;
    const span = (a, b, most) => [Math.max(0, Math.floor(Math.min(a, b) - reach)), Math.min(most - 1, Math.ceil(Math.max(a, b) + reach))];
    const [left, right] = span(x0, x1, width);
    const [top, bottom] = span(y0, y1, height);
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const [px, py] = [column + 0.5 - x0, row + 0.5 - y0];
        const t = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        const share = Math.min(1, radius + 0.5 - Math.hypot(px - t * dx, py - t * dy));
        if (share > 0) touch(row * width + column, share);
      }
    }
  }

  swap() {
    const { low, high } = this.generator;
    this.values = this.values.map(value => low + high - value);
  }

  // Scale and move the drawing as in MNIST: its larger side becomes 20/28 of the picture, its centre of mass the centre.
  centre() {
    const { channels, height, width, low, high } = this.generator;
    const ink = new Float64Array(this.pixels);
    for (let i = 0; i < this.pixels; i++) {
      for (let c = 0; c < channels; c++) ink[i] += Math.max(0, this.values[c * this.pixels + i] - low) / channels;
    }
    let [left, right, top, bottom, mass, x, y] = [width, -1, height, -1, 0, 0, 0];
    ink.forEach((value, i) => {
      const [row, column] = [Math.floor(i / width), i % width];
      if (value > 0.2 * (high - low)) {
        [left, right, top, bottom] = [Math.min(left, column), Math.max(right, column), Math.min(top, row), Math.max(bottom, row)];
      }
      [mass, x, y] = [mass + value, x + value * (column + 0.5), y + value * (row + 0.5)];
    });
    if (right < 0) return;
    const scale = Math.max((right - left + 1) / width, (bottom - top + 1) / height) / (20 / 28);
    const source = this.values.slice();
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < this.pixels; i++) {
        const [row, column] = [Math.floor(i / width), i % width];
        let sum = 0;
        for (let s = 0; s < 16; s++) {
          const u = (column + ((s % 4) + 0.5) / 4 - width / 2) * scale + x / mass;
          const v = (row + (Math.floor(s / 4) + 0.5) / 4 - height / 2) * scale + y / mass;
          sum += this.#between(source, c, u - 0.5, v - 0.5);
        }
        this.values[c * this.pixels + i] = sum / 16;
      }
    }
  }

  // Bilinear interpolation; black outside.
  #between(source, channel, u, v) {
    const { height, width, low } = this.generator;
    const at = (column, row) =>
      column >= 0 && row >= 0 && column < width && row < height ? source[channel * this.pixels + row * width + column] : low;
    const [i, j] = [Math.floor(u), Math.floor(v)];
    const [s, t] = [u - i, v - j];
    return (1 - t) * ((1 - s) * at(i, j) + s * at(i + 1, j)) + t * ((1 - s) * at(i, j + 1) + s * at(i + 1, j + 1));
  }

  // From a decoded image: its middle part in the picture's proportions, scaled down to the picture's size.
  take(image) {
    const { channels, height, width, low, high } = this.generator;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff"; // the background of transparent parts
    context.fillRect(0, 0, width, height);
    const part = Math.min(image.naturalWidth / width, image.naturalHeight / height);
    const [w, h] = [part * width, part * height];
    context.drawImage(image, (image.naturalWidth - w) / 2, (image.naturalHeight - h) / 2, w, h, 0, 0, width, height);
    const bytes = context.getImageData(0, 0, width, height).data;
    for (let i = 0; i < this.pixels; i++) {
      const rgb = [0, 1, 2].map(c => low + ((high - low) * bytes[4 * i + c]) / 255);
      const shown = channels === 1 ? [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]] : rgb;
      shown.forEach((value, c) => { this.values[c * this.pixels + i] = value; });
    }
    this.visible.fill(1);
  }

  // Whether most of its border is bright: dark ink on paper.
  get paper() {
    const { height, width, low, high } = this.generator;
    const border = this.values.slice(0, this.pixels).filter((_, i) =>
      i < width || i >= width * (height - 1) || i % width === 0 || i % width === width - 1).sort();
    return border[border.length >> 1] > (low + high) / 2;
  }

  // The observation: the picture plus noise of a given size. Changing the size only scales the same noise.
  observed(size, kind) {
    if (!size) return this.values;
    const draw = kind === "uniform" ? uniform(this.seed) : gaussian(this.seed);
    return this.values.map(value => value + size * draw());
  }
}

// Uniform in (-1, 1): mulberry32.
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return 2 * (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32 - 1;
  };
}

// Standard normal: Box and Muller.
function gaussian(seed) {
  const draw = uniform(seed);
  return () => Math.sqrt(-2 * Math.log((draw() + 1) / 2)) * Math.cos(Math.PI * draw());
}
