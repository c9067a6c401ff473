"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const cases = JSON.parse($("cases").textContent);
  const tables = JSON.parse($("rows").textContent);
  const text = (column, i) => (column ? column.t[column.i[i]] : "");
  const value = (column, i) => (column && column[i] !== undefined ? column[i] : null);

  // Derived once: which rows fail, and each row's own error against its bound.
  for (const t of tables) {
    t.out = new Uint8Array(t.n);
    for (const i of t.failed) t.out[i] = 1;
    t.ratio = new Array(t.n);
    for (let i = 0; i < t.n; i++) {
      const bound = t.bound[i];
      const own = t.local[i] !== null ? t.local[i] : bound === 0 ? t.total[i] : null;
      let ratio = own === null || bound === null ? null : own === 0 ? 0 : own / bound;
      if (t.out[i] && !(ratio > 1)) ratio = Infinity;
      t.ratio[i] = ratio;
    }
    t.lower = (t.site || { t: [] }).t.map((name) => name.toLowerCase());
    t.component = (t.site || { t: [] }).t.map((name) => name.split(".", 1)[0]);
    t.rank = new Int32Array(t.n);
    t.order.forEach((row, place) => (t.rank[row] = place));
  }

  const number = (v) => {
    if (v === null || v === undefined) return "–";
    if (!isFinite(v)) return v > 0 ? "∞" : "−∞";
    if (v === 0) return "0";
    if (v < 0) return "−" + number(-v);
    const size = Math.abs(v);
    return size < 1e-2 || size >= 1e4 ? v.toExponential(2).replace(/\.?0*e\+?/, "e") : String(Number(v.toPrecision(4)));
  };
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, v] of Object.entries(attributes)) node.setAttribute(name, v);
    node.append(...children);
    return node;
  };
  const name = (t, i) => text(t.site, i) + (text(t.output, i) ? ":" + text(t.output, i) : "");
  const where = (t, i) => {
    const parts = [text(t.stage, i)];
    if (t.step[i] !== null) parts.push("step " + t.step[i]);
    if (text(t.pass, i)) parts.push(text(t.pass, i));
    if (t.call[i]) parts.push("call " + t.call[i]);
    return parts.join(", ");
  };
  const say = (words) => ($("status").textContent = words);

  // ---- cases -------------------------------------------------------------------------------------------------------
  const showCase = (index) => {
    for (const node of document.querySelectorAll("section.case")) node.hidden = node.dataset.case !== String(index);
    for (const node of document.querySelectorAll(".case-button"))
      node.setAttribute("aria-pressed", node.dataset.case === String(index));
    // Anchors of the page's sections follow the case that is shown.
    for (const id of ["map", "growth", "site", "media"]) {
      const now = $(id);
      if (!now) continue;
      const titles = [...now.closest("section").querySelectorAll("h3")];
      const place = titles.indexOf(now);
      const section = document.querySelector(`section.case[data-case="${index}"]`);
      const next = section.querySelectorAll("h3:not(.live h3)");
      const same = [...next].find((node) => node.textContent === now.textContent) || next[place];
      if (same && same !== now) {
        now.removeAttribute("id");
        same.id = id;
      }
    }
  };
  for (const node of document.querySelectorAll(".case-button"))
    node.addEventListener("click", () => showCase(Number(node.dataset.case)));

  // ---- one site ----------------------------------------------------------------------------------------------------
  let current = null;
  // A wiring finding is in bound itself: it joins the failing sites at its place in the run.
  const failing = tables.flatMap((t, c) => {
    const guilty = cases[c].guilty;
    const rows = guilty === null || t.out[guilty] ? t.failed : [...t.failed, guilty].sort((a, b) => a - b);
    return rows.map((i) => [c, i]);
  });

  const ledger = (t, i) => {
    const local = value(t.local, i), inherited = value(t.inherited, i), gain = value(t.gain, i), incoming = value(t.incoming, i);
    if (local === null)
      return "This site cannot be run on the reference's own inputs, so only its error along the run is known.";
    let words = `Made here: ${number(local)}`;
    if (inherited === null) return words + ".";
    words += `; carried over from its input: ${number(inherited)}`;
    if (gain === null || incoming === null) return words + ".";
    const verb = gain > 1.05 ? "amplified" : gain < 0.95 ? "damped" : "passed on";
    return words + `, which is an incoming ${number(incoming)} (${text(t.incoming_name, i)}) ${verb} by a factor ${number(gain)}.`;
  };

  const series = (t, i) => {
    // The same site and output over the whole run: every step, pass and call.
    const rows = [];
    for (let r = 0; r < t.n; r++)
      if (t.site.i[r] === t.site.i[i] && t.output.i[r] === t.output.i[i]) rows.push(r);
    if (rows.length < 2) return null;
    const w = 1080, h = 150, left = 46, bottom = 18, least = 1e-9;
    const seen = rows.flatMap((r) => [t.local[r], t.total[r]]).filter((v) => v !== null && isFinite(v) && v > 0);
    const low = Math.floor(Math.log10(Math.max(least, Math.min(1e-7, ...seen))));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(1e-6, ...seen, t.bound[i] || 0))));
    const x = (p) => left + ((p + 0.5) / rows.length) * (w - left - 6);
    const y = (v) => {
      const level = Math.log10(Math.max(10 ** low, isFinite(v) ? v : 10 ** high));
      return 8 + ((high - level) / (high - low)) * (h - 8 - bottom);
    };
    const parts = [];
    for (let d = low; d <= high; d += Math.max(1, Math.ceil((high - low) / 5)))
      parts.push(`<line x1="${left}" x2="${w}" y1="${y(10 ** d)}" y2="${y(10 ** d)}" stroke="var(--line)"/><text x="${left - 6}" y="${y(10 ** d) + 4}" text-anchor="end">1e${d}</text>`);
    const line = (column, colour, dash) => {
      const points = rows.map((r, p) => (column[r] === null ? null : `${x(p).toFixed(1)},${y(column[r]).toFixed(1)}`)).filter(Boolean);
      if (points.length)
        parts.push(`<polyline points="${points.join(" ")}" fill="none" stroke="var(--${colour})" stroke-width="1.5" stroke-dasharray="${dash}"/>`);
    };
    line(t.local, "native", "");
    line(t.total, "difference", "5 3");
    if (t.bound[i] > 0) parts.push(`<line x1="${left}" x2="${w}" y1="${y(t.bound[i])}" y2="${y(t.bound[i])}" stroke="var(--fail)" stroke-dasharray="2 3"/>`);
    rows.forEach((r, p) => {
      const v = t.local[r] !== null ? t.local[r] : t.total[r];
      if (v !== null && (t.out[r] || r === i))
        parts.push(`<circle cx="${x(p)}" cy="${y(v)}" r="${r === i ? 4 : 2.5}" fill="var(--${t.out[r] ? "fail" : "native"})"/>`);
      if (t.step[r] !== null && (p === 0 || t.step[r] !== t.step[rows[p - 1]]) && rows.length / new Set(t.step).size < 60)
        parts.push(`<text x="${x(p)}" y="${h - 4}">${t.step[r]}</text>`);
    });
    const figure = make("figure");
    figure.innerHTML = `<svg viewBox="0 0 ${w} ${h}" aria-hidden="true" style="width:100%;font:10.5px system-ui;fill:var(--soft)">${parts.join("")}</svg>`;
    const bad = rows.filter((r) => t.out[r]).length;
    const largest = Math.max(...rows.map((r) => (t.local[r] === null ? 0 : t.local[r])));
    figure.append(make("figcaption", {}, `This site's ${rows.length} tensors over the run (steps below): local solid, total dashed, bound dotted. Largest local ${number(largest)}; ${bad} out of bound.`));
    return figure;
  };

  const showSite = (c, i, scroll = true) => {
    const t = tables[c];
    if (!t || !(i >= 0 && i < t.n)) return;
    current = [c, i];
    showCase(c);
    const live = document.querySelector(`.live[data-case="${c}"]`);
    const place = failing.findIndex(([a, b]) => a === c && b === i);
    const title = make("h3", { tabindex: "-1", class: "site-name", id: "site-title" }, name(t, i));
    const buttons = make("div", { class: "buttons" });
    for (const [label, step] of [["Previous failing", -1], ["Next failing", 1]]) {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => walk(step));
      if (!failing.length) button.disabled = true;
      buttons.append(button, " ");
    }
    const guilty = cases[c].guilty === i;
    const state = t.out[i] || guilty ? "fail" : t.ratio[i] === null ? "none" : "pass";
    const words = { fail: `✕ ${t.out[i] ? "out of bound" : cases[c].kind + " finding"}${place >= 0 ? `, ${place + 1} of ${failing.length}` : ""}`, pass: "✓ in bound", none: "· measured along the run only" };
    const facts = [
      ["local (made here)", number(t.local[i]), "own"], ["bound", number(t.bound[i])], ["local ÷ bound", number(t.ratio[i]), "own"],
      ["inherited", number(value(t.inherited, i))], ["incoming", number(value(t.incoming, i))], ["gain", number(value(t.gain, i))],
      ["total", number(t.total[i])], ["max abs", number(value(t.max_abs, i))], ["cosine", number(value(t.cosine, i))],
      ["bias ÷ rms", number(value(t.bias, i))], ["type", text(t.type, i)], ["shape", text(t.shape, i)], ["dtype", text(t.dtype, i)],
    ];
    const list = make("dl", { class: "numbers" + (t.out[i] ? " bad" : "") });
    for (const [label, shown, kind] of facts)
      list.append(make("div", {}, make("dt", {}, label), make("dd", kind ? { class: kind } : {}, shown || "–")));
    const head = make("div", { class: "live-head" }, make("div", {}, title,
      make("p", { class: "soft small" }, make("span", { class: "state " + state }, words[state]), ` – ${cases[c].name}, ${where(t, i)}`)), buttons);
    live.replaceChildren(head);
    if (text(t.problem, i)) live.append(make("p", {}, make("strong", {}, text(t.problem, i))));
    if (guilty) live.append(make("p", {}, make("strong", {}, "First guilty site. "), cases[c].sentence));
    live.append(list, make("p", {}, ledger(t, i)));
    const chart = series(t, i);
    if (chart) live.append(chart);
    let kept = null;
    for (const page of document.querySelectorAll(".page")) {
      const mine = page.dataset.page === `${c}:${i}`;
      page.classList.toggle("shown", mine);
      if (mine) kept = page;
    }
    if (kept) kept.open = true;
    else live.append(make("p", { class: "soft small" }, "The tensors of this row were not kept in this run; its numbers are all there is."));
    const hash = `#site=${c}:${i}`;
    if (location.hash !== hash) history.replaceState(null, "", hash);
    if (scroll) {
      document.querySelector(`section.case[data-case="${c}"] .live`).scrollIntoView({ block: "start", behavior: "instant" });
      title.focus({ preventScroll: true });
    }
    say(`${name(t, i)}: ${words[state]}`);
    draw();
  };

  const walk = (step) => {
    if (!failing.length) return say("No site is out of bound.");
    let place = current ? failing.findIndex(([c, i]) => c === current[0] && i === current[1]) : -1;
    if (place < 0 && current && step > 0) place = failing.findIndex(([c, i]) => c > current[0] || (c === current[0] && i > current[1])) - 1;
    place = place < 0 && step < 0 ? failing.length - 1 : (place + step + failing.length) % failing.length;
    showSite(...failing[place]);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") walk(1);
    if (event.key === "k") walk(-1);
  });
  document.addEventListener("click", (event) => {
    const node = event.target.closest("[data-row]");
    if (!node) return;
    event.preventDefault();
    showSite(...node.dataset.row.split(":").map(Number));
  });
  document.addEventListener("pointerover", (event) => {
    if (event.target.tagName !== "rect" || !event.target.dataset.row) return;
    const [c, i] = event.target.dataset.row.split(":").map(Number);
    const t = tables[c];
    document.querySelector(`.hint[data-case="${c}"]`).textContent =
      `${name(t, i)} [${where(t, i)}]: local ${number(t.local[i])}, bound ${number(t.bound[i])}, total ${number(t.total[i])}`;
  });

  // ---- all sites ---------------------------------------------------------------------------------------------------
  const HEIGHT = 28, SPARE = 12;
  const all = tables.flatMap((t, c) => t.order.map((i) => [c, i]));
  const columns = [
    ["", "3%", (c, i) => (tables[c].out[i] ? "✕" : tables[c].ratio[i] === null ? "·" : "✓"), (c, i) => tables[c].out[i], "state"],
    ["site", "37%", (c, i) => name(tables[c], i), (c, i) => name(tables[c], i)],
    ["type", "12%", (c, i) => text(tables[c].type, i), (c, i) => text(tables[c].type, i)],
    ["step", "5%", (c, i) => tables[c].step[i] ?? "", (c, i) => tables[c].step[i]],
    ["pass", "7%", (c, i) => text(tables[c].pass, i), (c, i) => text(tables[c].pass, i)],
    ["local", "8%", (c, i) => number(tables[c].local[i]), (c, i) => tables[c].local[i]],
    ["bound", "7%", (c, i) => number(tables[c].bound[i]), (c, i) => tables[c].bound[i]],
    ["÷ bound", "7%", (c, i) => number(tables[c].ratio[i]), (c, i) => tables[c].ratio[i]],
    ["total", "8%", (c, i) => number(tables[c].total[i]), (c, i) => tables[c].total[i]],
    ["gain", "6%", (c, i) => number(value(tables[c].gain, i)), (c, i) => value(tables[c].gain, i)],
  ];
  let shown = all, sorted = null, downward = true;
  const grid = $("grid"), body = grid.querySelector("tbody"), headRow = grid.querySelector("thead tr");
  columns.forEach(([label, width, , , spoken], index) => {
    const button = make("button", { type: "button" }, label || "!");
    if (spoken) button.setAttribute("aria-label", spoken);
    button.addEventListener("click", () => sort(index));
    headRow.append(make("th", { scope: "col", style: `width:${width}`, class: index > 4 ? "n" : "" }, button));
  });

  const sort = (index) => {
    downward = sorted === index ? !downward : index > 4 || index === 0;
    sorted = index;
    [...headRow.children].forEach((node, i) =>
      i === index ? node.setAttribute("aria-sort", downward ? "descending" : "ascending") : node.removeAttribute("aria-sort"));
    filter();
  };
  const arrange = (rows) => {
    if (sorted === null) return rows;
    const key = columns[sorted][3], sign = downward ? -1 : 1;
    const keyed = rows.map((row) => [key(...row), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return a < b ? -sign : a > b ? sign : 0;
    });
    return keyed.map(([, row]) => row);
  };

  const options = (node, values, label) => {
    node.append(make("option", { value: "" }, label), ...values.map(([v, shownAs]) => make("option", { value: v }, shownAs)));
  };
  options($("f-case"), cases.map((item, c) => [c, item.name]), "all");
  options($("f-component"), [...new Set(tables.flatMap((t) => t.component))].map((v) => [v, v]), "all");
  options($("f-step"), [...new Set(tables.flatMap((t) => t.step.filter((s) => s !== null)))].sort((a, b) => a - b).map((v) => [v, v]), "all");

  const filter = () => {
    const words = $("f-text").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const [one, component, step, show] = ["f-case", "f-component", "f-step", "f-show"].map((id) => $(id).value);
    // Names repeat, so they are matched once each.
    const kept = tables.map((t) => t.lower.map((site, k) => words.every((w) => site.includes(w)) && (!component || t.component[k] === component)));
    shown = arrange(all.filter(([c, i]) =>
      (one === "" || c === Number(one)) && kept[c][tables[c].site.i[i]] &&
      (step === "" || tables[c].step[i] === Number(step)) &&
      (show === "" || (show === "out") === Boolean(tables[c].out[i]))));
    $("f-count").textContent = `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} rows`;
    grid.scrollTop = 0;
    draw();
  };

  const pad = (height) => make("tr", { "aria-hidden": "true" }, make("td", { class: "pad", colspan: columns.length, style: `height:${height}px` }));
  const draw = () => {
    const first = Math.max(0, Math.floor(grid.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(shown.length, first + Math.ceil((grid.clientHeight || 576) / HEIGHT) + 2 * SPARE);
    const rows = [];
    if (first) rows.push(pad(first * HEIGHT));
    for (let p = first; p < last; p++) {
      const [c, i] = shown[p];
      const t = tables[c];
      const row = make("tr", { "aria-rowindex": p + 2 });
      if (t.out[i]) row.classList.add("failed");
      if (current && current[0] === c && current[1] === i) row.classList.add("current");
      columns.forEach(([, , show], index) => {
        const cell = make("td", { class: index > 4 ? "n" : index === 1 ? "site" : "" });
        if (index === 1) {
          const link = make("a", { href: `#site=${c}:${i}`, "data-row": `${c}:${i}`, title: name(t, i) }, show(c, i));
          cell.append(link);
        } else cell.textContent = show(c, i);
        row.append(cell);
      });
      rows.push(row);
    }
    if (last < shown.length) rows.push(pad((shown.length - last) * HEIGHT));
    body.replaceChildren(...rows);
    grid.querySelector("table").setAttribute("aria-rowcount", shown.length + 1);
  };
  let waiting = false;
  grid.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  });
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());

  // ---- videos: one frame number drives every side ------------------------------------------------------------------
  for (const viewer of document.querySelectorAll(".viewer")) {
    const frames = Number(viewer.dataset.frames), rate = Number(viewer.dataset.rate);
    const panes = [...viewer.querySelectorAll(".frame")];
    const scrub = viewer.querySelector("input"), play = viewer.querySelector(".play"), out = viewer.querySelector("output");
    let frame = 0, playing = 0;
    const set = (n) => {
      frame = n;
      for (const pane of panes) {
        const columns = Number(pane.dataset.columns), rows = Number(pane.dataset.rows);
        const x = columns > 1 ? ((n % columns) / (columns - 1)) * 100 : 0;
        const y = rows > 1 ? (Math.floor(n / columns) / (rows - 1)) * 100 : 0;
        pane.style.backgroundPosition = `${x}% ${y}%`;
        pane.dataset.frame = n;
        pane.setAttribute("aria-label", `${pane.dataset.side}, frame ${n}`);
      }
      scrub.value = n;
      out.textContent = `frame ${n} of 0–${frames - 1}, ${(n / rate).toFixed(3)} s`;
    };
    const stop = () => { cancelAnimationFrame(playing); playing = 0; play.textContent = "Play"; };
    play.addEventListener("click", () => {
      if (playing) return stop();
      play.textContent = "Pause";
      const from = frame === frames - 1 ? 0 : frame;
      let start = null;
      const tick = (now) => {
        start ??= now;
        set((from + Math.floor(((now - start) / 1000) * rate)) % frames);
        playing = requestAnimationFrame(tick);
      };
      playing = requestAnimationFrame(tick);
    });
    scrub.addEventListener("input", () => { stop(); set(Number(scrub.value)); });
    set(0);
  }

  // ---- theme, print, start -----------------------------------------------------------------------------------------
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => { for (const node of document.querySelectorAll("details")) node.open = true; });
  const fromHash = () => {
    const found = /^#site=(\d+):(\d+)$/.exec(location.hash);
    if (found) showSite(Number(found[1]), Number(found[2]));
    return Boolean(found);
  };
  addEventListener("hashchange", fromHash);
  if (cases.length) showCase(failing.length ? failing[0][0] : 0);
  filter();
  if (!fromHash() && failing.length) showSite(...failing[0], false);
})();
