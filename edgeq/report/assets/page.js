"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const options = { responsive: true, displaylogo: false, displayModeBar: false };

  // Text and lines follow the reader's theme; the colours of the data are the same in both.
  const themed = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    const made = { ...layout, font: { color: text } };
    const axes = Object.keys(layout).filter((name) => /^[xy]axis/.test(name));
    for (const name of new Set(["xaxis", "yaxis", ...axes])) {
      made[name] = { ...layout[name], gridcolor: line, zerolinecolor: line };
    }
    return made;
  };
  const draw = (id, figure) => Plotly.react(id, figure.data, themed(figure.layout), options);

  const charts = read("charts");
  const histograms = read("histograms");
  const select = document.getElementById("layer");
  const drawAll = () => {
    for (const [id, figure] of Object.entries(charts)) draw(id, figure);
    if (select) draw("histogram", histograms[Number(select.value)]);
  };
  drawAll();
  dark.addEventListener("change", drawAll);
  if (select) select.addEventListener("change", () => draw("histogram", histograms[Number(select.value)]));

  const search = document.getElementById("search");
  if (search) {
    const rows = [...document.querySelectorAll("#plan tbody tr")];
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      document.getElementById("matches").textContent = shown;
    });
  }
})();
