// Numbers as pixels on a canvas: values from black to white, differences from blue over white to red.

const HIDDEN = [158, 202, 225];
// The colours of ColorBrewer's RdBu, from negative to positive.
const DIVERGING = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"]
  .map(colour => [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16)));

export function showValues(canvas, generator, values, visible) {
  const { channels, low, high } = generator;
  const pixels = values.length / channels;
  const grey = value => (255 * (value - low)) / (high - low);
  paint(canvas, generator, visible, i => [0, 1, 2].map(c => grey(values[(channels === 3 ? c : 0) * pixels + i])));
}

// Shows the channel that differs most. Returns the difference that has the full colour.
export function showDifferences(canvas, generator, values, visible) {
  const { channels, low, high } = generator;
  const pixels = values.length / channels;
  const scale = Math.max(0.1 * (high - low), values.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  paint(canvas, generator, visible, i => {
    let most = 0;
    for (let c = 0; c < channels; c++) {
      if (Math.abs(values[c * pixels + i]) > Math.abs(most)) most = values[c * pixels + i];
    }
    const place = 5 + (5 * most) / scale;
    const below = Math.min(9, Math.max(0, Math.floor(place)));
    return DIVERGING[below].map((value, c) => value + (place - below) * (DIVERGING[below + 1][c] - value));
  });
  return scale;
}

export function showNothing(canvas, { height, width }) {
  Object.assign(canvas, { height, width });
}

function paint(canvas, { height, width }, visible, colour) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { height, width });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = !visible || visible[i] ? colour(i) : HIDDEN;
    image.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
