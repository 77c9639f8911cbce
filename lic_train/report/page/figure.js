// One chart, drawn from the JSON in its element, with hovering, a legend that hides lines, and zoom.

const NARROW = 560; // pixels; narrower charts have no names at their lines
const LETTER = 7.2; // pixels, approximate width of a letter in a name at a line

class Chart {
  constructor(root, data, colours) {
    this.root = root;
    this.data = data;
    this.small = root.classList.contains("small");
    this.series = this.data.lines.map((line, index) => ({
      ...line,
      index,
      short: short(line.name),
      points: line.x.map((x, k) => [x, line.y[k]]),
      look: colours(line, index, this.data.lines.length),
      hidden: false,
    }));
    this.view = null; // {x: [low, high], y: [low, high]} while zoomed
    this.everything = false; // whether points outside the first view are shown
    this.cursor = null; // {series, k}: the point with the tooltip
    this.plot = html("div", { class: "plot" });
    this.tip = html("div", { class: "tip", role: "status" });
    this.tip.hidden = true;
    this.svg = element("svg", { role: "img", tabindex: "0", "aria-label": this.description() });
    this.plot.append(this.svg, this.tip);
    root.querySelector(".head").append(this.tools());
    root.querySelector(".chart").append(this.plot, this.legend());
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  description() {
    const names = this.series.map((series) => series.name).join(", ");
    return `${this.data.title}: ${this.data.y_label} over ${this.data.x_label} of ${names}. `
      + "Arrow keys go from point to point, plus and minus zoom, 0 resets.";
  }

  visible() {
    return this.series.filter((series) => !series.hidden && series.points.length);
  }

  extents() {
    if (this.view) return this.view;
    const all = this.visible().flatMap((series) => series.points);
    const limit = this.limit();
    const near = all.filter((point) => point[0] <= limit);
    const limited = near.length > 0 && near.length < all.length;
    const x = domain((limited ? near : all).map((point) => point[0]), { fromZero: true, air: this.small ? 0 : 0.03 });
    const heights = this.visible().flatMap((series) => [...settled(series), ...leaving(series.points, limit)]);
    return {
      x: limited ? [x[0], limit] : x,
      y: domain(heights.filter((point) => !limited || point[0] <= limit).map((point) => point[1])),
    };
  }

  limit() {
    return this.everything ? Infinity : this.data.x_high ?? Infinity;
  }

  draw(width = this.plot.clientWidth) {
    if (!width) return;
    const narrow = width < NARROW;
    const height = Math.round(this.small ? width * 0.62 : Math.min(Math.max(width * (narrow ? 0.85 : 0.56), 260), 620));
    const { x, y } = this.extents();
    const yTicks = ticks(y, Math.max(3, Math.floor(height / (this.small ? 40 : 48))));
    const left = 30 + 7 * Math.max(...yTicks.map((tick) => tick.text.length));
    const right = width - (this.small ? 12 : narrow ? 8 : this.gutter(x));
    this.box = { left, right, top: 12, bottom: height - 44 };
    this.x = scale(x, [left, this.box.right]);
    this.y = scale(y, [this.box.bottom, this.box.top]);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const xTicks = ticks(x, Math.max(3, Math.floor(width / 80)));
    this.svg.replaceChildren(this.frame(xTicks, yTicks, width, height), ...this.lines(), this.labels(width), ...this.mark());
  }

  // Width at the right for the names of lines that end there.
  gutter([low, high]) {
    const there = this.visible().filter(({ x }) => x[x.length - 1] > low + 0.8 * (high - low));
    return Math.max(20, ...there.map((series) => series.short.length * LETTER + 4));
  }

  frame(xTicks, yTicks, width, height) {
    const { left, right, top, bottom } = this.box;
    const group = element("g", { "aria-hidden": "true" });
    for (const { value, text } of yTicks) {
      group.append(element("line", { class: "gridline", x1: left, x2: right, y1: this.y(value), y2: this.y(value) }));
      group.append(element("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end", class: "y-tick" }, text));
    }
    for (const { value, text } of xTicks) {
      group.append(element("line", { class: "gridline", x1: this.x(value), x2: this.x(value), y1: top, y2: bottom }));
      group.append(element("text", { x: this.x(value), y: bottom + 17, "text-anchor": "middle", class: "x-tick" }, text));
    }
    const middle = (top + bottom) / 2;
    group.append(
      element("path", { class: "frame", d: `M${left} ${top}V${bottom}H${right}` }),
      element("text", { class: "axis-name", x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, this.data.x_label),
      element("text", { class: "axis-name", transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, this.data.y_label),
    );
    const clip = `clip-${this.root.id}`;
    const area = { x: left - 5, y: top - 5, width: right - left + 10, height: bottom - top + 10 };
    group.append(element("clipPath", { id: clip }, element("rect", area)));
    return group;
  }

  lines() {
    const clip = `url(#clip-${this.root.id})`;
    return this.visible().map((series) => {
      const group = element("g", { class: this.classes(series), "data-name": series.name, "clip-path": clip });
      group.append(element("path", { class: "line", d: path(series.points, this.x, this.y) }));
      if (series.style !== "training") {
        for (const [px, py] of series.points) group.append(marker(series, this.x(px), this.y(py), this.box.right < NARROW ? 3 : 4));
      }
      return group;
    });
  }

  classes(series) {
    const dimmed = this.cursor && this.cursor.series !== series ? " dimmed" : "";
    return `series ${series.style} ${series.look.colour}${dimmed}`;
  }

  // The name of each line, where the line leaves the view at the right or at its last visible point.
  labels(width) {
    const group = element("g", { "aria-hidden": "true" });
    if (width < NARROW) return group;
    const texts = this.visible().flatMap((series) => {
      const places = [...series.points, ...leaving(series.points, this.x.invert(this.box.right))];
      const inside = places.filter(([px, py]) => this.inside(this.x(px), this.y(py)));
      if (!inside.length) return [];
      const [px, py] = inside[inside.length - 1];
      const wide = series.short.length * LETTER;
      return [{ series, x: Math.min(this.x(px) + 8, width - wide), y: this.y(py) + 4, width: wide }];
    });
    spread(texts, 14, this.box.top + 8, this.box.bottom - 4);
    for (const { series, x, y } of texts) {
      group.append(element("g", { class: this.classes(series) }, element("text", { class: "label", x, y }, series.short)));
    }
    return group;
  }

  inside(px, py) {
    const { left, right, top, bottom } = this.box;
    return px >= left - 1 && px <= right + 1 && py >= top - 1 && py <= bottom + 1;
  }

  // A ring around the selected point, and its tooltip.
  mark() {
    this.tip.hidden = !this.cursor;
    if (!this.cursor) return [];
    const { series, k } = this.cursor;
    const [px, py] = series.points[k];
    const at = [this.x(px), this.y(py)];
    this.tell(series, k, at);
    return [element("circle", { class: "cursor", cx: at[0], cy: at[1], r: 7 })];
  }

  tell(series, k, [px, py]) {
    const lines = [series.labels[k], `${this.data.x_label}: ${precise(series.x[k])}`, `${this.data.y_label}: ${precise(series.y[k])}`];
    this.tip.replaceChildren(html("b", {}, series.name), ...lines.filter(Boolean).map((line) => html("span", {}, line)));
    const room = this.plot.clientWidth - this.tip.offsetWidth;
    const beside = px + 14 > room ? px - this.tip.offsetWidth - 14 : px + 14;
    this.tip.style.left = `${Math.max(0, Math.min(beside, room))}px`;
    this.tip.style.top = `${Math.max(0, py - this.tip.offsetHeight - 8)}px`;
  }

  nearest(px, py, reach) {
    let best = null, least = reach ** 2;
    for (const series of this.visible()) {
      series.points.forEach(([vx, vy], k) => {
        const at = [this.x(vx), this.y(vy)];
        const distance = (at[0] - px) ** 2 + (at[1] - py) ** 2;
        if (distance < least && this.inside(...at)) [best, least] = [{ series, k }, distance];
      });
    }
    return best;
  }

  toggle(series, button) {
    series.hidden = !series.hidden;
    button.setAttribute("aria-pressed", String(!series.hidden));
    this.point(null);
  }

  point(cursor) {
    this.cursor = cursor;
    this.draw();
  }

  // Return to the first view, or show all points.
  reset(everything) {
    this.everything = everything;
    this.zoom(null);
  }

  zoom(view) {
    this.view = view;
    this.point(null);
  }

  // Zoom the axes around a position in pixels.
  zoomBy(factor, px = (this.box.left + this.box.right) / 2, py = (this.box.top + this.box.bottom) / 2) {
    const around = (range, centre) => range.map((value) => centre + (value - centre) * factor);
    const { x, y } = this.extents();
    this.zoom({ x: around(x, this.x.invert(px)), y: around(y, this.y.invert(py)) });
  }
}

// A name without its part in brackets, for the end of its line.
function short(name) {
  const head = name.split(" (")[0];
  return head.length > 28 ? `${head.slice(0, 27)}…` : head;
}

// Points without the first twentieth of a training, because its high losses would flatten the rest.
function settled(series) {
  const skip = series.style === "training" ? Math.floor(series.y.length / 20) : 0;
  return series.points.slice(skip);
}

// The point where a line crosses a limit to the right, as a list of at most one point.
function leaving(points, limit) {
  const k = points.findIndex((point, next) => next > 0 && points[next - 1][0] <= limit && point[0] > limit);
  if (k < 0) return [];
  const [[x0, y0], [x1, y1]] = [points[k - 1], points[k]];
  return [[limit, y0 + ((y1 - y0) * (limit - x0)) / (x1 - x0)]];
}

function precise(value) {
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 2 : 4;
  return shown(value, digits);
}

function marker(series, x, y, radius) {
  return element("path", { class: "marker", d: series.look.marker(radius), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
}
