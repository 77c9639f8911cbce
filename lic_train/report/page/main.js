// Creates the charts, sortable tables and sliders from the data in the page.

// A codec has the same colour and marker in all figures; the lines of a training have an ordered colour scale.
// Anchors come before cited curves, so that every anchor has its own colour.
function palette(lines) {
  const known = { m: new Map(), a: new Map() };
  for (const { name, style } of lines) {
    if (style === "anchor" && !known.a.has(name)) known.a.set(name, known.a.size);
  }
  return ({ name, style }, index, count) => {
    if (style === "training") {
      const step = count > 1 ? Math.round((index * 7) / (count - 1)) : 2;
      return { colour: `t${step}`, marker: MARKERS[0] };
    }
    const family = style === "model" ? "m" : "a";
    const names = known[family];
    if (!names.has(name)) names.set(name, names.size);
    const number = names.get(name);
    const shape = number + Math.floor(number / 8); // repeated colours have other markers
    return { colour: `${family}${number % 8}`, marker: MARKERS[shape % MARKERS.length] };
  };
}

function sortable(table) {
  table.querySelectorAll("thead button").forEach((button, column) => {
    button.addEventListener("click", () => sort(table, column, button.closest("th")));
  });
}

function sort(table, column, heading) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], rising ? 1 : -1));
  body.append(...rows);
}

// Blanks last, numbers by value, text alphabetically.
function compare(a, b, sign) {
  const [blankA, blankB] = [a, b].map((cell) => cell.classList.contains("blank"));
  if (blankA || blankB) return blankA - blankB;
  if (a.dataset.value && b.dataset.value) return sign * (Number(a.dataset.value) - Number(b.dataset.value));
  return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

const figures = [...document.querySelectorAll(".figure")];
const read = (root) => JSON.parse(root.querySelector("script").textContent);
const colours = palette(figures.flatMap((root) => read(root).lines));
const charts = figures.map((root) => new Chart(root, read(root), colours));
document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll(".comparison").forEach((root) => new Comparison(root));
// For printing, charts are drawn at the width of the paper, so that their text keeps its size.
addEventListener("beforeprint", () => charts.forEach((chart) => chart.draw(chart.small ? 300 : 680)));
addEventListener("afterprint", () => charts.forEach((chart) => chart.draw()));
