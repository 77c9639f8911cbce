// Controls of a chart: legend, buttons, pointer and keys.

Object.assign(Chart.prototype, {
  tools() {
    const group = html("div", { class: "tools", role: "group", "aria-label": "Zoom" });
    if (this.small) return group;
    const add = (text, label, act) => {
      const button = html("button", { type: "button", title: label, "aria-label": label }, text);
      button.addEventListener("click", act);
      group.append(button);
    };
    add("+", "Zoom in", () => this.zoomBy(0.7));
    add("−", "Zoom out", () => this.zoomBy(1 / 0.7));
    if (this.data.x_high) add("All", "Show everything", () => this.reset(true));
    add("Reset", this.data.x_high ? "Back to the first view" : "Show everything", () => this.reset(false));
    return group;
  },

  legend() {
    const group = html("div", { class: "legend", role: "group", "aria-label": "Lines shown" });
    for (const series of this.series) {
      const button = html("button", { type: "button", "aria-pressed": "true", "data-name": series.name });
      const swatch = element("svg", { width: 28, height: 12, class: this.classes(series), "aria-hidden": "true" });
      swatch.append(element("path", { class: "line", d: "M0 6H28" }));
      if (series.style !== "training") swatch.append(marker(series, 14, 6, 3.6));
      button.append(swatch, html("span", {}, series.name));
      button.addEventListener("click", () => this.toggle(series, button));
      group.append(button);
    }
    return group;
  },

  listen() {
    this.svg.addEventListener("pointermove", (event) => this.moved(event));
    this.svg.addEventListener("pointerdown", (event) => this.pressed(event));
    this.svg.addEventListener("pointerup", (event) => this.released(event));
    this.svg.addEventListener("pointercancel", () => { this.start = null; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { if (!this.start && this.cursor) this.point(null); });
    this.svg.addEventListener("dblclick", () => this.reset(false));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  },

  place(event) {
    const frame = this.svg.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  },

  moved(event) {
    const [px, py] = this.place(event);
    if (this.start) {
      this.draw();
      this.svg.append(element("rect", { class: "selection", ...this.selection(px, py) }));
      return;
    }
    const found = this.nearest(px, py, 40);
    if (found?.series !== this.cursor?.series || found?.k !== this.cursor?.k) this.point(found);
  },

  pressed(event) {
    if (event.pointerType === "touch" || event.button !== 0) return;
    this.start = this.place(event);
    this.cursor = null;
    this.svg.setPointerCapture(event.pointerId);
  },

  released(event) {
    if (!this.start) return;
    const { x, y, width, height } = this.selection(...this.place(event));
    this.start = null;
    if (width < 8 || height < 8) return void this.draw();
    this.zoom({
      x: [this.x.invert(x), this.x.invert(x + width)],
      y: [this.y.invert(y + height), this.y.invert(y)],
    });
  },

  // The rectangle between the pressed and the current position, limited to the axes.
  selection(px, py) {
    const { left, right, top, bottom } = this.box;
    const within = (value, low, high) => Math.min(Math.max(value, low), high);
    const [x0, x1] = [this.start[0], px].map((value) => within(value, left, right)).sort((a, b) => a - b);
    const [y0, y1] = [this.start[1], py].map((value) => within(value, top, bottom)).sort((a, b) => a - b);
    return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  },

  // Zoom with Ctrl or Command only, so that the page still scrolls over a chart.
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomBy(event.deltaY < 0 ? 0.8 : 1.25, ...this.place(event));
  },

  key(event) {
    const acts = {
      ArrowRight: () => this.step(0, 1),
      ArrowLeft: () => this.step(0, -1),
      ArrowUp: () => this.step(-1, 0),
      ArrowDown: () => this.step(1, 0),
      Escape: () => this.point(null),
      "+": () => this.zoomBy(0.7),
      "-": () => this.zoomBy(1 / 0.7),
      0: () => this.reset(false),
    };
    if (!(event.key in acts) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    acts[event.key]();
  },

  // Select a point of another line, or another point of this line.
  step(lines, points) {
    const visible = this.visible();
    if (!visible.length) return;
    const now = this.cursor ?? { series: visible[0], k: -Math.min(points, 0) };
    const number = this.cursor ? visible.indexOf(now.series) + lines : 0;
    const series = visible[(number + visible.length) % visible.length];
    const k = Math.min(Math.max(this.cursor ? now.k + points : 0, 0), series.points.length - 1);
    this.point({ series, k });
  },
});
