"use strict";
// A press on the head of a column sorts its table: upwards, downwards, as it was. Cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  if (rows.length < 2) continue;
  const inWords = new Intl.Collator("en", { numeric: true }).compare;
  for (const head of heads) {
    if (!head.dataset.sort) continue;
    const at = head.cellIndex;
    const given = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
    const numeric = head.dataset.sort === "number";
    const known = (row) => given(row) !== "" && !(numeric && Number.isNaN(Number(given(row))));
    const order = numeric ? (a, b) => Number(given(a)) - Number(given(b)) : (a, b) => inWords(given(a), given(b));
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
      for (const other of heads) other.removeAttribute("aria-sort");
      const sign = next === "descending" ? -1 : 1;
      const sorted = rows.filter(known).sort((a, b) => sign * order(a, b));
      if (next !== "none") head.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? rows : [...sorted, ...rows.filter((row) => !known(row))]));
    });
  }
  table.classList.add("live");
}
