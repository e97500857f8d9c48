"use strict";
// Without this script the page is the same, but for sorting, filtering, tabs and small pictures.

const valueOf = (cell) => {
  const text = cell.dataset.v ?? cell.textContent.trim();
  const number = parseFloat(text.replace("−", "-").replace(/^[#+]/, "").replaceAll(",", ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
};
const compare = (a, b) =>
  typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    if ("fixed" in header.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
      // What there is no number of comes last, whichever way.
      const blank = (value) => value === "–" || value === "";
      rows.sort(([a], [b]) => blank(a) - blank(b) || (down ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

for (const filters of document.querySelectorAll(".filters")) {
  const rows = [...document.getElementById(filters.dataset.table).tBodies[0].rows];
  const input = filters.querySelector("input");
  const chips = filters.querySelector(".chips");
  const chosen = {};
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const kept =
        words.every((word) => text.includes(word)) &&
        Object.entries(chosen).every(([key, values]) => !values.size || values.has(row.dataset[key]));
      row.hidden = !kept;
      shown += kept;
    }
    filters.querySelector(".count").textContent = `${shown} of ${rows.length} models`;
  };
  for (const key of Object.keys(rows[0].dataset)) {
    const values = [...new Set(rows.map((row) => row.dataset[key]))];
    if (values.length < 2) continue;
    chosen[key] = new Set();
    const group = document.createElement("fieldset");
    const legend = document.createElement("legend");
    legend.textContent = key;
    group.append(legend);
    for (const value of values.sort()) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.textContent = value;
      chip.setAttribute("aria-pressed", "false");
      chip.addEventListener("click", () => {
        const on = !chosen[key].delete(value);
        if (on) chosen[key].add(value);
        chip.setAttribute("aria-pressed", String(on));
        show();
      });
      group.append(chip);
    }
    chips.append(group);
  }
  input.addEventListener("input", show);
  filters.hidden = false;
  show();
}

for (const map of document.querySelectorAll(".map")) {
  const panels = [...map.querySelectorAll(".panel")];
  const tabs = map.querySelector(".tabs");
  const choose = (wanted) => {
    panels.forEach((panel, i) => (panel.hidden = i !== wanted));
    [...tabs.children].forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === wanted));
      tab.tabIndex = i === wanted ? 0 : -1;
    });
  };
  panels.forEach((panel, i) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.setAttribute("role", "tab");
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-label", panel.dataset.name);
    tab.textContent = panel.dataset.name;
    tab.addEventListener("click", () => choose(i));
    tabs.append(tab);
  });
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = ([...tabs.children].indexOf(event.target) + step + panels.length) % panels.length;
    choose(next);
    tabs.children[next].focus();
  });
  tabs.hidden = false;
  choose(0);

  const crop = map.querySelector(".crop");
  const words = map.querySelector(".words");
  const side = Number(map.dataset.side);
  const across = Number(map.dataset.across);
  let at = -1;
  const look = (i) => {
    const marks = [...map.querySelectorAll(`use[data-i="${i}"]`)];
    if (!marks.length) return;
    at = i;
    for (const old of map.querySelectorAll("use.at")) old.classList.remove("at");
    for (const mark of marks) mark.classList.add("at");
    words.textContent = marks[0].querySelector("title").textContent;
    if (!crop) return;
    crop.hidden = false;
    crop.style.cssText = `width:${side}px;height:${side}px;zoom:2`;
    const image = crop.querySelector("img");
    image.style.marginLeft = `${-(i % across) * side}px`;
    image.style.marginTop = `${-Math.floor(i / across) * side}px`;
  };
  for (const mark of map.querySelectorAll("use[data-i]"))
    for (const kind of ["pointerenter", "click"])
      mark.addEventListener(kind, () => look(Number(mark.dataset.i)));
  const count = map.querySelectorAll(".panel:first-child use[data-i]").length;
  for (const svg of map.querySelectorAll(".panel svg"))
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      look((at + step + count) % count);
    });
}
