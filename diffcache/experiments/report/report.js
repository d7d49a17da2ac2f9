"use strict";
// A click on a column's name sorts its table: numbers by size, the rest by letters; another click turns it round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const sort = (column) => {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.setAttribute("aria-sort", "none");
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...table.tBodies[0].rows];
    const numbers = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numbers ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, column) => {
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort(column);
      }
    });
  });
}

// Rows stay that have all the words.
for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...input.closest("details").querySelectorAll("tbody tr")];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// What is folded is printed too.
const folded = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.open = true;
    folded.push(one);
  }
});
addEventListener("afterprint", () => {
  for (const one of folded.splice(0)) one.open = false;
});

// The contents show where the reader is.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const places = [...links.keys()].map((name) => document.getElementById(name));
const contents = document.querySelector("nav");
const show = () => {
  const above = places.filter((place) => place.getBoundingClientRect().top < innerHeight / 3);
  for (const link of links.values()) link.classList.remove("here");
  if (!above.length) return;
  const link = links.get(above[above.length - 1].id);
  link.classList.add("here");
  if (contents.scrollWidth > contents.clientWidth) contents.scrollLeft = link.offsetLeft - contents.clientWidth / 3;
};
addEventListener("scroll", show, { passive: true });
show();
