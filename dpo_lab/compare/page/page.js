// A heading sorts its table: first ascending, then descending; what has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const value = (row) => row.cells[column].dataset.value;
      const numeric = (text) => text !== "" && !Number.isNaN(Number(text));
      const order = (a, b) => (numeric(a) && numeric(b) ? Number(a) - Number(b) : a.localeCompare(b));
      const rows = [...table.tBodies[0].rows];
      rows.sort((x, y) => {
        const [a, b] = [value(x), value(y)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return descending ? order(b, a) : order(a, b);
      });
      table.tBodies[0].append(...rows);
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
