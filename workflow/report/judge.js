"use strict";
// The blind page: shows pairs one after the other, keeps the choices in this browser, and writes them to a file.
// Texts of the data are set as text content, never as HTML. Nothing is sent anywhere.
(() => {
  const { page, run, items } = JSON.parse(document.getElementById("data").textContent);
  const STORE = `snaketune-judge-${page}`;
  const COLUMNS = ["page", "run", "judge", "item", "choice", "note"];
  const WORDS = { a: "A is better", b: "B is better", tie: "equal" };
  const KEYS = { 1: "a", 2: "b", "=": "tie" };
  const known = new Map(items.map((item, index) => [item.id, index]));
  const at = (id) => document.getElementById(id);
  const many = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;

  // votes: item -> choice, in the order in which they were made, so that the last one can be undone.
  const empty = () => ({ judge: "", begun: false, shortcuts: true, votes: new Map(), notes: new Map() });
  let state = empty();
  let current = 0; // index of the pair that is shown; items.length: all are judged
  let unsaved = false; // choices that only this page knows, where the browser keeps nothing

  // ---- keeping

  function keep() {
    const { judge, begun, shortcuts, votes, notes } = state;
    try {
      localStorage.setItem(STORE, JSON.stringify({ judge, begun, shortcuts, votes: [...votes], notes: [...notes] }));
      at("unkept").hidden = true;
      unsaved = false;
    } catch {
      at("unkept").hidden = false;
      unsaved = votes.size > 0;
    }
  }

  function recall() {
    state = empty();
    try {
      const kept = JSON.parse(localStorage.getItem(STORE)) ?? {};
      state.judge = String(kept.judge ?? "");
      state.begun = kept.begun === true;
      state.shortcuts = kept.shortcuts !== false;
      state.votes = new Map((kept.votes ?? []).filter(([id, choice]) => known.has(id) && Object.hasOwn(WORDS, choice)));
      state.notes = new Map((kept.notes ?? []).filter(([id]) => known.has(id)));
    } catch {
      keep(); // no storage, or not ours: the page says so, or begins anew
    }
    current = nextOpen();
  }

  function nextOpen() {
    const open = items.findIndex((item) => !state.votes.has(item.id));
    return open < 0 ? items.length : open;
  }

  // ---- showing

  function setText(id, text, otherwise) {
    const node = at(id);
    const blank = text.trim() === "";
    node.textContent = blank ? otherwise : text;
    node.classList.toggle("empty", blank);
  }

  // A long text is cut at the height of its box, with a button for the rest.
  function fit(id) {
    const box = at(`${id}-clip`);
    const button = document.querySelector(`[data-for="${id}"]`);
    const open = box.classList.contains("open");
    const cut = open || box.scrollHeight > box.clientHeight + 4;
    const length = at(id).textContent.length.toLocaleString("en");
    box.classList.toggle("cut", cut);
    button.hidden = !cut;
    button.textContent = open ? "Show less" : `Show all ${length} characters`;
    button.setAttribute("aria-expanded", String(open));
  }

  function fitAll() {
    for (const id of ["prompt", "a", "b"]) fit(id);
  }

  function show(focus) {
    const done = state.votes.size;
    const over = current >= items.length;
    const screen = !state.begun && items.length ? "start" : over ? "end" : "pair";
    for (const id of ["start", "pair", "end"]) at(id).hidden = id !== screen;
    at("top").hidden = screen === "start" || items.length === 0;
    at("saved").hidden = items.length === 0;
    document.body.classList.toggle("judging", screen === "pair");
    at("count").textContent = `${done.toLocaleString("en")} of ${items.length.toLocaleString("en")} judged`;
    at("progress").value = done;
    at("undo").disabled = done === 0;
    at("shortcuts").checked = state.shortcuts;
    at("judge").value = state.judge;
    at("go").textContent = done ? "Go on" : "Begin";
    for (const id of ["rename", "choosing"]) at(id).hidden = screen === "start";
    for (const id of ["save-json", "save-csv", "again"]) at(id).hidden = done === 0;
    at("whose").textContent = done
      ? `${many(done, "answer")}${state.judge ? ` by ${state.judge}` : ""}. Save them to a file and hand it back; you can also go on from it elsewhere.`
      : "Nothing is judged yet. If you have begun elsewhere, go on from the file that you saved there.";
    if (screen === "pair") showPair(items[current]);
    if (screen === "end") showEnd();
    window.scrollTo(0, 0);
    if (focus) at({ start: "judge", pair: "pair-title", end: "end-title" }[screen]).focus({ preventScroll: true });
  }

  function showPair(item) {
    if (!at("status").textContent) at("status").textContent = "Which answer is better?";
    at("pair-title").textContent = `Pair ${current + 1} of ${items.length}`;
    setText("prompt", item.prompt, "(no prompt)");
    setText("a", item.a, "(empty answer)");
    setText("b", item.b, "(empty answer)");
    setText("reference", item.reference, "");
    at("reference-fold").hidden = item.reference.trim() === "";
    at("reference-fold").open = false;
    at("note").value = state.notes.get(item.id) ?? "";
    for (const box of document.querySelectorAll(".clip")) box.classList.remove("open");
    fitAll();
    for (const node of document.querySelectorAll(".prompt, .cards")) {
      node.classList.remove("shown");
      void node.offsetWidth; // lets the same animation run again
      node.classList.add("shown");
    }
  }

  function showEnd() {
    const none = items.length === 0;
    at("end-title").textContent = none ? "There is nothing to judge" : "Thank you, that was all";
    at("end-text").textContent = none
      ? "No prompt has two different answers."
      : "Every pair is judged. Save your answers to a file, and hand it to whoever asked you.";
  }

  // ---- judging

  function choose(choice) {
    if (!state.begun || current >= items.length) return;
    state.votes.set(items[current].id, choice);
    at("status").textContent = `Pair ${current + 1}: ${WORDS[choice]}.`;
    at("message").textContent = "";
    current = nextOpen();
    keep();
    show(true);
  }

  function undo() {
    const last = [...state.votes.keys()].pop();
    if (!state.begun || last === undefined) return;
    state.votes.delete(last);
    current = known.get(last);
    at("status").textContent = `Pair ${current + 1} is open again.`;
    keep();
    show(true);
  }

  // ---- files

  function rows() {
    return items
      .filter((item) => state.votes.has(item.id))
      .map((item) => ({ item: item.id, choice: state.votes.get(item.id), note: state.notes.get(item.id) ?? "" }));
  }

  function asJson() {
    return `${JSON.stringify({ page, run, judge: state.judge, judgements: rows() }, null, 1)}\n`;
  }

  function asCsv() {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = rows().map(({ item, choice, note }) => [page, run, state.judge, item, choice, note]);
    // The mark at the start tells spreadsheets that this is UTF-8.
    return `\ufeff${[COLUMNS, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n")}\r\n`;
  }

  function save(kind, text, type) {
    const link = document.createElement("a");
    const name = state.judge.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "unnamed";
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `judgement-${run}-${name}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    unsaved = false;
    at("message").textContent = `${many(state.votes.size, "answer")} saved as ${link.download}.`;
  }

  // Fields of a CSV text, by RFC 4180.
  function parseCsv(text) {
    const lines = [[]];
    const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
    while (pattern.lastIndex < text.length) {
      const found = pattern.exec(text);
      if (!found) throw new Error("not CSV");
      lines.at(-1).push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
      if (found[3] !== ",") lines.push([]);
    }
    const [head, ...rest] = lines.filter((line) => line.length);
    return rest.map((line) => Object.fromEntries(head.map((name, index) => [name, line[index]])));
  }

  function parse(name, text) {
    if (name.toLowerCase().endsWith(".csv")) return parseCsv(text.replace(/^\ufeff/, ""));
    const { judgements, ...head } = JSON.parse(text);
    return judgements.map((row) => ({ ...head, ...row }));
  }

  function adopt(name, text) {
    let found;
    try {
      found = parse(name, text);
    } catch {
      return `${name} is no file of this page.`;
    }
    const votes = found.filter((row) => known.has(row.item) && Object.hasOwn(WORDS, row.choice));
    if (!votes.length || found.some((row) => row.page !== page)) {
      return `${name} is no file of this page: it belongs to other pairs.`;
    }
    const judge = String(votes[0].judge ?? "");
    if (state.judge && judge !== state.judge) return `${name} was saved by ${judge}, and the name here is ${state.judge}.`;
    state.judge = judge;
    let added = 0;
    for (const { item, choice, note } of votes) {
      if (!state.votes.has(item)) {
        state.votes.set(item, choice);
        added += 1;
      }
      if (note && !state.notes.has(item)) state.notes.set(item, String(note));
    }
    current = nextOpen();
    keep();
    show(false);
    return `${many(added, "answer")} taken from ${name}.`;
  }

  // ---- what a person does

  at("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    state.judge = at("judge").value.trim();
    state.begun = true;
    keep();
    show(true);
  });
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.dataset.choice));
  }
  for (const button of document.querySelectorAll("[data-for]")) {
    button.addEventListener("click", () => {
      at(`${button.dataset.for}-clip`).classList.toggle("open");
      fit(button.dataset.for);
    });
  }
  at("undo").addEventListener("click", undo);
  at("note").addEventListener("input", () => {
    if (at("note").value) state.notes.set(items[current].id, at("note").value);
    else state.notes.delete(items[current].id);
    keep();
  });
  at("save-json").addEventListener("click", () => save("json", asJson(), "application/json"));
  at("save-csv").addEventListener("click", () => save("csv", asCsv(), "text/csv"));
  at("load").addEventListener("change", async () => {
    const [file] = at("load").files;
    if (file) at("message").textContent = adopt(file.name, await file.text());
    at("load").value = ""; // the same file may be chosen again
  });
  at("shortcuts").addEventListener("change", () => {
    state.shortcuts = at("shortcuts").checked;
    keep();
  });
  at("rename").addEventListener("click", () => {
    state.begun = false;
    show(true);
  });
  at("forget").addEventListener("click", () => {
    state = empty();
    current = 0;
    for (const id of ["status", "message"]) at(id).textContent = "";
    at("again").open = false;
    keep();
    show(true);
  });

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("textarea, input[type=text]")) {
      if (event.key === "Escape" && event.target === at("note")) at("pair-title").focus();
      return;
    }
    if (!state.begun || !state.shortcuts || event.repeat || event.isComposing) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(KEYS, event.key) && current < items.length) choose(KEYS[event.key]);
    else if (event.key === "Backspace" || event.key.toLowerCase() === "u") undo();
    else if (event.key.toLowerCase() === "n" && current < items.length) at("note").focus();
    else return;
    event.preventDefault();
  });
  window.addEventListener("resize", fitAll);
  window.addEventListener("storage", (event) => {
    if (event.key !== STORE) return; // the same page in another tab
    recall();
    show(false);
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });

  recall();
  show(false);
})();
