// Scales, round ticks, and the markers and paths of a chart.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// The smallest step of 1, 2, 2.5 or 5 times a power of ten with at most `count` intervals.
function tickStep(span, count) {
  const power = 10 ** Math.floor(Math.log10(span / count));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => span / step <= count * 1.0001);
}

function decimals(step) {
  for (let digits = 0; digits < 10; digits++) {
    if (Math.abs(step - Number(step.toFixed(digits))) < step * 1e-6) return digits;
  }
  return 10;
}

function ticks([low, high], count) {
  const step = tickStep(high - low, count);
  const digits = decimals(step);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push({ value: k * step, text: shown(k * step, digits) });
  }
  return found;
}

// A number as text, with thousands separators and a typographic minus sign.
function shown(value, digits) {
  const text = Math.abs(value) >= 10000
    ? Math.abs(value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

// The extent of values with a margin, starting at 0 if 0 is near.
function domain(values, { fromZero = false, air = 0.05 } = {}) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  if (low === high) return [low - 0.5, high + 0.5];
  const room = (high - low) * air;
  const start = fromZero && low >= 0 && low < 0.4 * high ? 0 : low - room;
  return [start, high + room];
}

function scale([low, high], [from, to]) {
  const factor = (to - from) / (high - low);
  const map = (value) => from + (value - low) * factor;
  map.invert = (pixel) => low + (pixel - from) / factor;
  return map;
}

const MARKERS = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (r) => polygon(4, r * 1.2, 45),
  (r) => polygon(3, r * 1.35, -90),
  (r) => polygon(4, r * 1.3, 0),
  (r) => polygon(3, r * 1.35, 90),
  (r) => polygon(5, r * 1.25, -90),
  (r) => polygon(6, r * 1.2, 0),
  (r) => polygon(3, r * 1.35, 0),
];

function polygon(corners, radius, degrees) {
  const points = [];
  for (let k = 0; k < corners; k++) {
    const angle = ((degrees + (360 * k) / corners) * Math.PI) / 180;
    points.push(`${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`);
  }
  return `M${points.join("L")}z`;
}

function path(points, x, y) {
  return points.map(([px, py], k) => `${k ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
}

// Move the names at the ends of lines vertically until they do not overlap. Each is {x, y, width}; y is changed.
function spread(labels, height, top, bottom) {
  const placed = [];
  for (const label of [...labels].sort((a, b) => a.y - b.y)) {
    const clash = () => placed.find((other) => Math.abs(other.y - label.y) < height - 1e-6 // tolerance for rounding
      && label.x < other.x + other.width && other.x < label.x + label.width);
    for (let other = clash(); other; other = clash()) label.y = other.y + height;
    placed.push(label);
  }
  const over = Math.max(0, ...placed.map((label) => label.y - bottom));
  for (const label of placed) label.y = Math.max(top, label.y - over);
}
