// What the page of a leaderboard does: sorting, another baseline, the queries of a system one by one.
// Its state stands in the address: #task=KEY&baseline=NAME&sort=COLUMN&order=desc&system=NAME&quoted=no
"use strict";
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message || "error"; });

  const SVG = "http://www.w3.org/2000/svg";
  const tasks = JSON.parse(document.getElementById("data").textContent);
  const sections = [...document.querySelectorAll("section.task")];
  const parts = tasks.map((task, number) => prepare(task, sections[number]));
  const overviews = [...document.querySelectorAll("section.overview")].map(sortable);
  const tables = [...overviews, ...parts];
  let opener = null; // what the focus returns to when a panel closes

  function prepare(task, section) {
    const tests = new Map();
    for (const [i, j, up, down, p, mark, gap, chance] of task.pairs) {
      tests.set(`${i} ${j}`, { text: up, mark, p, gap, chance });
      const turned = { "▲": "▼", "▼": "▲", "": "" }[mark];
      tests.set(`${j} ${i}`, { text: down, mark: turned, p, gap: -gap, chance });
    }
    return {
      ...sortable(section), task, tests, baseline: task.baseline, open: null,
      select: section.querySelector("select.baseline"),
      cited: section.querySelector("input.cited"),
      panel: section.querySelector(".panel"),
    };
  }

  function sortable(section) {
    const table = section.querySelector("table.systems");
    const [heads, rows] = [[...table.tHead.rows[0].cells], [...table.tBodies[0].rows]];
    return { key: section.id, table, heads, rows, sorted: null };
  }

  // The address.

  function read() {
    const text = location.hash.slice(1);
    return text.includes("=") ? new URLSearchParams(text) : null; // else it is the name of a section
  }

  function write(changes) {
    const state = read() || new URLSearchParams();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) state.delete(name);
      else state.set(name, value);
    }
    location.replace("#" + state.toString());
    apply();
  }

  // Changes of one task's state; what the address says of another task is given up.
  function within(key, changes, others) {
    write({ ...(read()?.get("task") === key ? {} : others), task: key, ...changes });
  }

  function apply() {
    const state = read();
    if (!state) return;
    for (const part of tables) {
      const hidden = state.get("quoted") === "no";
      part.table.classList.toggle("ours", hidden);
      if (part.cited) part.cited.checked = !hidden;
    }
    const named = tables.find((part) => part.key === state.get("task"));
    for (const part of parts) {
      const chosen = place(part, state.get("baseline"));
      rebase(part, chosen === -1 ? part.task.baseline : chosen);
    }
    const sorted = named || tables.find((part) => column(part, state.get("sort")) !== -1);
    if (sorted && state.has("sort")) sort(sorted, state.get("sort"), state.get("order"));
    const shown = named || parts.find((part) => place(part, state.get("system")) !== -1);
    for (const part of parts) {
      const system = part === shown ? place(part, state.get("system")) : -1;
      if (system === -1) close(part);
      else open(part, system);
    }
  }

  function place(part, name) {
    return part.task.systems.findIndex((system) => system.values && system.name === name);
  }

  function column(part, key) {
    return part.heads.findIndex((head) => head.dataset.key === key);
  }

  // Sorting.

  function sort(part, key, order) {
    const at = column(part, key);
    if (at === -1) return;
    const head = part.heads[at];
    const falling = order ? order === "desc" : "falls" in head.dataset;
    const text = head.classList.contains("text");
    const value = (row) => {
      const cell = row.cells[at].dataset.sort;
      return cell === undefined || cell === "" ? null : text ? cell : Number(cell);
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const missing = (x === null) - (y === null); // last, in either order
      const by = x === null || x === y ? 0 : (x < y) === falling ? 1 : -1;
      return missing || by || Number(a.dataset.place) - Number(b.dataset.place);
    };
    part.table.tBodies[0].append(...[...part.rows].sort(compare));
    for (const other of part.heads) {
      other.setAttribute("aria-sort", other !== head ? "none" : falling ? "descending" : "ascending");
    }
    part.sorted = [key, order];
  }

  // The baseline.

  function rebase(part, baseline) {
    if (!part.select || baseline === null || baseline === part.baseline) return;
    part.baseline = baseline;
    part.select.value = String(baseline);
    const [gap, p] = [column(part, "difference"), column(part, "p")];
    for (const row of part.rows) {
      const at = Number(row.dataset.place);
      const test = part.tests.get(`${at} ${baseline}`);
      row.classList.toggle("base", at === baseline);
      if (!test && at !== baseline && !part.task.systems[at].values) continue; // quoted, or not measured by it
      const number = make(test?.mark ? "strong" : "span", test ? test.text : "baseline");
      fill(row.cells[gap], [number, make("i", test ? test.mark : "")], test?.gap);
      fill(row.cells[p], [test ? test.p : ""], test?.chance);
    }
    if (part.sorted && ["difference", "p"].includes(part.sorted[0])) sort(part, ...part.sorted);
    const shown = part.open;
    part.open = null;
    if (shown !== null) open(part, shown);
  }

  function fill(cell, content, order) {
    cell.replaceChildren(...content);
    if (order === undefined) delete cell.dataset.sort;
    else cell.dataset.sort = String(order);
  }

  // The queries of a system.

  function open(part, system) {
    if (part.open === system) return;
    part.open = system;
    mark(part, system);
    const [ours, base] = [part.task.systems[system], part.task.systems[part.baseline]];
    const pairs = part.task.ids.map((id, at) => ({ id, x: base.values[at], y: ours.values[at] }));
    const better = pairs.filter((pair) => pair.y > pair.x).length;
    const worse = pairs.filter((pair) => pair.y < pair.x).length;
    const equal = pairs.length - better - worse;
    const header = make("header");
    const shut = make("button", "Close");
    shut.type = "button";
    shut.addEventListener("click", leave);
    const itself = system === part.baseline;
    header.append(make("h3", itself ? ours.name : `${ours.name} against ${base.name}`), shut);
    const sides = make("div");
    sides.className = "sides";
    if (!itself) sides.append(scatter(part, pairs, ours.name, base.name));
    sides.append(facts(ours.facts));
    const counts = make("p", itself
      ? "This is the baseline: choose another one, or another system, to compare them query by query."
      : `${part.task.measure}: ${count(better)} better, ${count(equal)} equal, ${count(worse)} worse of `
        + `${count(pairs.length)} queries.`);
    counts.className = "counts";
    part.panel.replaceChildren(header, counts, sides);
    part.panel.setAttribute("aria-label", header.firstChild.textContent);
    part.panel.setAttribute("role", "region");
    part.panel.hidden = false;
  }

  function close(part) {
    if (part.open === null) return;
    part.open = null;
    mark(part, -1);
    part.panel.hidden = true;
    part.panel.replaceChildren();
  }

  function leave() {
    write({ system: null });
    if (opener) opener.focus();
  }

  function mark(part, system) {
    for (const row of part.rows) {
      const here = Number(row.dataset.place) === system;
      row.classList.toggle("open", here);
      const button = row.querySelector("button.name");
      if (button) button.setAttribute("aria-expanded", String(here));
    }
  }

  function facts(list) {
    const table = make("dl");
    for (const [label, value] of list) {
      const content = make("dd");
      content.append(make("code", value));
      table.append(make("dt", label), content);
    }
    return table;
  }

  function scatter(part, pairs, name, baseName) {
    const size = 400, edge = 40, far = size - 12;
    const all = pairs.flatMap((pair) => [pair.x, pair.y]);
    const low = Math.min(0, ...range(all)), high = Math.max(1, ...range(all));
    const across = (value) => edge + ((value - low) / (high - low)) * (far - edge);
    const upward = (value) => size - across(value);
    const about = `${name} against ${baseName}, a point for each query`;
    const svg = draw("svg", { viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": about });
    svg.append(draw("line", { class: "axis", x1: edge, y1: size - edge, x2: far, y2: size - edge }));
    svg.append(draw("line", { class: "axis", x1: edge, y1: size - edge, x2: edge, y2: size - far }));
    svg.append(draw("line", { class: "diagonal", x1: edge, y1: size - edge, x2: far, y2: size - far }));
    for (const tick of [low, (low + high) / 2, high]) {
      const text = tick.toFixed(high - low > 10 ? 0 : 1);
      svg.append(draw("text", { class: "tick", x: across(tick), y: size - edge + 16, "text-anchor": "middle" }, text));
      svg.append(draw("text", { class: "tick", x: edge - 8, y: upward(tick) + 4, "text-anchor": "end" }, text));
    }
    svg.append(draw("text", { class: "tick", x: far, y: size - 6, "text-anchor": "end" }, short(baseName)));
    const upright = { class: "tick", x: -(size - far), y: 11, "text-anchor": "end", transform: "rotate(-90)" };
    svg.append(draw("text", upright, short(name)));
    const told = make("output");
    told.textContent = "Point at a query, or reach the points with Tab and the arrow keys.";
    const circles = together(pairs).map((group) => {
      const { x, y, ids } = group;
      const listed = ids.slice(0, 4).join(", ") + (ids.length > 4 ? ` and ${ids.length - 4} more` : "");
      const values = `${x.toFixed(4)} with ${baseName}, ${y.toFixed(4)} with ${name}`;
      const words = `${ids.length > 1 ? "queries" : "query"} ${listed}: ${values}`;
      return draw("circle", {
        class: y > x ? "better" : y < x ? "worse" : "equal", cx: across(x).toFixed(1), cy: upward(y).toFixed(1),
        r: Math.min(14, 3 + Math.sqrt(ids.length)).toFixed(1), tabindex: -1, role: "img", "aria-label": words,
        "data-ids": String(ids.length),
      });
    });
    const tell = ({ target }) => {
      if (target.tagName === "circle") told.textContent = target.getAttribute("aria-label");
    };
    svg.addEventListener("mouseover", tell);
    svg.addEventListener("focusin", tell);
    if (circles.length) circles[0].setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const at = circles.indexOf(document.activeElement);
      if (!step || at === -1) return;
      event.preventDefault();
      const next = circles[(at + step + circles.length) % circles.length];
      circles[at].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
    svg.append(...circles);
    const side = make("div");
    side.className = "scatter";
    side.append(svg, told);
    return side;
  }

  // Queries with the same two values are one point, larger the more they are; by the baseline's value.
  function together(pairs) {
    const groups = new Map();
    for (const { id, x, y } of pairs) {
      const key = `${x} ${y}`;
      if (!groups.has(key)) groups.set(key, { x, y, ids: [] });
      groups.get(key).ids.push(id);
    }
    return [...groups.values()].sort((a, b) => a.x - b.x || a.y - b.y);
  }

  function range(values) {
    return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [0, 0]);
  }

  function count(number) {
    return number.toLocaleString("en-GB");
  }

  function short(text) {
    return text.length > 40 ? text.slice(0, 39) + "…" : text;
  }

  function make(tag, text) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // What people do.

  for (const part of tables) {
    for (const head of part.heads) {
      head.querySelector("button").addEventListener("click", () => {
        const first = "falls" in head.dataset ? "desc" : "asc";
        const other = first === "desc" ? "asc" : "desc";
        const now = { ascending: "asc", descending: "desc" }[head.getAttribute("aria-sort")];
        within(part.key, { sort: head.dataset.key, order: now === first ? other : first }, { system: null });
      });
    }
  }
  for (const part of parts) {
    if (part.select) {
      part.select.addEventListener("change", () => {
        write({ baseline: part.task.systems[Number(part.select.value)].name });
      });
    }
    if (part.cited) {
      part.cited.addEventListener("change", () => write({ quoted: part.cited.checked ? null : "no" }));
    }
    for (const row of part.rows) {
      const button = row.querySelector("button.name");
      if (!button) continue;
      const at = Number(row.dataset.place);
      button.addEventListener("click", () => {
        opener = button;
        within(part.key, { system: part.open === at ? null : part.task.systems[at].name }, { sort: null, order: null });
        if (part.panel.hidden) return;
        part.panel.focus({ preventScroll: true });
        part.panel.scrollIntoView({ block: "nearest" });
      });
    }
  }
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && parts.some((part) => !part.panel.hidden)) leave();
  });
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });
  window.addEventListener("hashchange", apply);
  apply();
  root.dataset.ready = "1";
})();
