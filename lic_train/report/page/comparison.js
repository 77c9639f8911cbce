// A photograph with a slider: the original on the left, a reconstruction on the right.

class Comparison {
  constructor(root) {
    this.root = root;
    this.figures = [...root.querySelectorAll(".crops figure[data-codec]")];
    this.original = this.figures[0];
    this.codec = this.figures[1];
    this.layer = "picture";
    const window = root.querySelector(".window");
    if (window) for (const side of ["left", "top", "width", "height"]) window.style[side] = `${window.dataset[side]}%`;
    if (this.codec) this.build(root.querySelector(".inspector"));
  }

  build(inspector) {
    this.under = html("img", { alt: "" });
    this.over = html("img", { alt: "", class: "over" });
    this.divider = html("div", { class: "divider" });
    this.right = html("span", { class: "side right" });
    this.slider = html("input", { type: "range", min: "0", max: "100", value: "50", step: "0.5", "aria-label": "Share of the original" });
    this.slider.addEventListener("input", () => this.slide());
    const left = html("span", { class: "side left" }, this.original.dataset.codec);
    const stage = html("div", { class: "stage" }, this.under, this.over, this.divider, left, this.right, this.slider);
    inspector.append(this.choices(), stage);
    inspector.hidden = false;
    this.show();
  }

  choices() {
    const group = html("div", { class: "choices" });
    const codecs = this.figures.slice(1);
    if (codecs.length > 1) group.append(html("span", {}, "Codec"));
    if (codecs.length > 1) for (const figure of codecs) group.append(this.choice(figure.dataset.codec, "codec", figure));
    const layers = ["picture", "error", "bits"].filter((layer) => codecs.some((figure) => source(figure, layer)));
    const names = { picture: "Reconstruction", error: "Error", bits: "Bits" };
    if (layers.length > 1) group.append(html("span", {}, "View"));
    if (layers.length > 1) for (const layer of layers) group.append(this.choice(names[layer], "layer", layer));
    return group;
  }

  choice(text, what, value) {
    const button = html("button", { type: "button", class: "choice", "data-choice": what }, text);
    button.addEventListener("click", () => { this[what] = value; this.show(); });
    button.chosen = () => this[what] === value;
    return button;
  }

  // Show all crops and the larger view in the chosen layer; codecs without that layer show their picture.
  show() {
    for (const button of this.root.querySelectorAll(".choice")) button.setAttribute("aria-pressed", String(button.chosen()));
    for (const figure of this.figures) {
      const layer = source(figure, this.layer) ? this.layer : "picture";
      for (const image of figure.querySelectorAll("img")) image.hidden = image.dataset.layer !== layer;
    }
    this.under.src = source(this.codec, this.layer) ?? source(this.codec, "picture");
    this.over.src = source(this.original, "picture");
    this.right.textContent = this.codec.dataset.codec;
    this.slide();
  }

  slide() {
    const share = Number(this.slider.value);
    this.over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.divider.style.left = `${share}%`;
  }
}

function source(figure, layer) {
  return figure.querySelector(`img[data-layer="${layer}"]`)?.src;
}
