"use strict";

// Text of others, such as names of classes and files, is only ever assigned to textContent and to alt.
const byId = (id) => document.getElementById(id);
let about = { max_bytes: 0 };
let running = null;
let preview = "";

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, isError = false) {
  const status = byId("status");
  status.textContent = text;
  status.className = isError ? "error" : "";
}

function label(shown) {
  return shown.words ? `${shown.words.split(",")[0]} (${shown.name})` : shown.name;
}

function percent(probability) {
  return `${(100 * probability).toFixed(2)}%`;
}

function figure(source, alt, caption, className = "") {
  const image = element("img", { src: source, alt });
  return element("figure", { className }, [image, element("figcaption", { textContent: caption })]);
}

function showMap(answer, place) {
  const buttons = byId("classes").querySelectorAll("button");
  buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === place)));
  const shown = answer.classes[place];
  const [, map] = byId("pictures").children;
  map.querySelector("img").src = shown.map;
  map.querySelector("img").alt = `Grad-CAM over the picture for ${label(shown)}`;
  map.querySelector("figcaption").textContent = shown.speaks
    ? `What supports ${label(shown)} (Grad-CAM)`
    : `No position supports ${label(shown)} (Grad-CAM)`;
}

function showClasses(answer) {
  byId("classes").replaceChildren(...answer.classes.map((each, place) => {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${100 * Math.min(1, Math.max(0, each.probability))}%`;
    const parts = [bar, element("span", { textContent: label(each) })];
    parts.push(element("span", { className: "share", textContent: percent(each.probability) }));
    const row = each.map ? element("button", { type: "button" }, parts) : element("div", { className: "row" }, parts);
    if (each.map) {
      row.addEventListener("click", () => showMap(answer, place));
    }
    return element("li", {}, [row]);
  }));
}

function showPictures(answer, file) {
  if (!answer.crop) {
    byId("pictures").replaceChildren(figure(preview, `The picture ${file.name}`, file.name, "single"));
    return;
  }
  const crop = figure(answer.crop, `The center crop of ${file.name}`, "What the network sees: the center crop");
  byId("pictures").replaceChildren(crop, figure("", "", ""));
  showMap(answer, 0);
}

function showNeighbors(answer) {
  const neighbors = answer.neighbors || [];
  byId("neighbors-section").hidden = neighbors.length === 0;
  byId("neighbors").replaceChildren(...neighbors.map((each) => {
    const named = label({ name: each.class_name, words: each.words });
    const caption = `${named}, distance ${each.distance.toPrecision(3)}`;
    if (each.image) {
      return figure(each.image, `Training image ${each.name} of the class ${named}`, caption);
    }
    return element("p", { textContent: `${each.name}: ${caption}` });
  }));
}

function show(answer, file) {
  showClasses(answer);
  showPictures(answer, file);
  showNeighbors(answer);
  byId("hint").hidden = !answer.crop;
  byId("result").hidden = false;
  say(`${file.name}: ${label(answer.classes[0])}, ${percent(answer.classes[0].probability)}`);
}

async function send(file) {
  running?.abort();
  const own = running = new AbortController();
  byId("result").hidden = true;
  if (about.max_bytes && file.size > about.max_bytes) {
    say(`Expected a picture of at most ${about.max_bytes / 2 ** 20} MiB. Received: ${file.name}, a larger one`, true);
    return;
  }
  URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  say(`Classifying ${file.name} ...`);
  try {
    const response = await fetch("/answer", {
      method: "POST", body: file, signal: own.signal, headers: { "Content-Type": "application/octet-stream" },
    });
    const answer = await response.json();
    if (own !== running) {
      return;
    }
    if (answer.error) {
      say(answer.error, true);
    } else {
      show(answer, file);
    }
  } catch (error) {
    if (own === running && error.name !== "AbortError") {
      say("The server does not answer. Is it still running?", true);
    }
  }
}

function first(transfer) {
  return transfer ? [...transfer.files][0] : undefined;
}

function listen() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => {
    const file = event.target.files[0];
    // So that the same file can be chosen again.
    if (file) {
      send(file).finally(() => { event.target.value = ""; });
    }
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = first(event.dataTransfer);
    if (file) {
      send(file);
    }
  });
  document.addEventListener("paste", (event) => {
    const file = first(event.clipboardData);
    if (file) {
      send(file);
    }
  });
}

async function begin() {
  listen();
  about = await (await fetch("/about")).json();
  byId("about").textContent = about.description;
  byId("limit").textContent = about.max_bytes / 2 ** 20;
}

begin();
