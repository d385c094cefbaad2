// Draws the charts in the colours of the page, and again when the page turns light or dark.
(function () {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function axis(own) {
    return Object.assign({}, own, {
      title: { text: own.title, font: { size: 12 }, standoff: 8 },
      gridcolor: css("--grid"), linecolor: css("--line"), zerolinecolor: css("--grid"),
      automargin: true, ticks: "", nticks: 8, exponentformat: "SI",
    });
  }

  function layout(own) {
    return Object.assign({}, own, {
      xaxis: axis(own.xaxis), yaxis: axis(own.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink-2") },
      margin: { l: 8, r: 8, t: 8, b: 8 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: css("--ink") } },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
      hovermode: own.hovermode || "closest",
    });
  }

  function draw() {
    charts.forEach((chart, index) => {
      const place = document.getElementById("chart-" + index);
      Plotly.react(place, chart.traces, layout(chart.layout), { responsive: true, displaylogo: false, displayModeBar: false });
    });
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
