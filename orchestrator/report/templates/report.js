"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(figure, width) {
    const ink = colour("--ink"), rule = colour("--rule");
    const axis = { gridcolor: rule, zerolinecolor: rule, linecolor: rule, automargin: true };
    const data = figure.data.map((trace) => {
      const own = Object.assign({}, trace);
      if (trace.meta === "ink") {
        own.marker = Object.assign({}, trace.marker, { color: ink });
        own.line = Object.assign({}, trace.line, { color: ink });
      }
      if (trace.error_x) own.error_x = Object.assign({}, trace.error_x, { color: ink });
      if (trace.colorbar && width < 560) own.showscale = false;
      return own;
    });
    const layout = Object.assign({}, figure.layout, {
      template: { layout: { xaxis: axis, yaxis: axis } },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: width < 560 ? 11 : 12.5, family: "system-ui, Helvetica, Arial, sans-serif" },
      margin: { l: 56, r: 14, t: 18, b: 52 }, width: width,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent") },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: rule, font: { color: ink } },
    });
    layout.shapes = (figure.layout.shapes || []).map((shape) =>
      Object.assign({}, shape, { line: Object.assign({ color: ink, width: 1 }, shape.line) }));
    // Make room for the legend below the plot: the number of its rows depends on the width.
    const named = figure.data.filter((trace) => trace.showlegend !== false && trace.type !== "heatmap");
    if (layout.legend && named.length > 1) {
      const text = named.reduce((sum, trace) => sum + 60 + 7 * trace.name.length, 0);
      layout.height = figure.layout.height + 21 * Math.ceil(text / Math.max(200, width - 80));
      layout.legend = Object.assign({}, layout.legend, { y: -56 / (figure.layout.height - 70) });
    } else layout.showlegend = false;
    return { data, layout };
  }

  const options = { displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" } };

  function draw(plot) {
    const width = plot.clientWidth;
    if (!width) return;
    const { data, layout } = themed(figures[plot.dataset.figure], width);
    plot.dataset.width = width;
    Plotly.react(plot, data, layout, Object.assign({ displayModeBar: width < 560 ? false : "hover" }, options));
  }

  const plots = Array.from(document.querySelectorAll(".plot"));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !entry.target.dataset.width) draw(entry.target);
  }, { rootMargin: "600px" });
  for (const plot of plots) {
    plot.style.minHeight = figures[plot.dataset.figure].layout.height + "px";
    observer.observe(plot);
  }
  let timer = 0;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => plots.forEach((plot) => {
      if (plot.dataset.width && Number(plot.dataset.width) !== plot.clientWidth) draw(plot);
    }), 150);
  });
  dark.addEventListener("change", () => plots.forEach((plot) => { if (plot.dataset.width) draw(plot); }));

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[head.cellIndex].textContent.trim();
      const number = (text) => parseFloat(text.replace(/[,<]/g, "").replace("−", "-"));
      const order = Array.from(body.rows).sort((a, b) => {
        const [s, t] = [value(a), value(b)], [x, y] = [number(s), number(t)];
        return isNaN(x) || isNaN(y) ? s.localeCompare(t) : x - y;
      });
      for (const row of up ? order : order.reverse()) body.appendChild(row);
    });
  }
})();
