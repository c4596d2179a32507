"use strict";
// Everything that is shown is set as text, never as markup.

const POLL_MS = 5000, SHOWN_SECONDS = 900, LONGEST_SHOWN = 200000, MOST_FIELDS = 60;
const $ = (id) => document.getElementById(id);
const HINTS = {
  refused: "the input was at fault; its answer says what was expected",
  failed: "run() raised, or the model did; the log has the traceback under this id",
  timeout: "run() took longer than SCORING_TIMEOUT_MS or WORKER_TIMEOUT",
  unavailable: "more waited than SCORING_QUEUE_SIZE, or the service was starting or stopping",
};

// --- elements ------------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const made = tag === "svg" || el.inSvg.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== ""));
  return made;
}
el.inSvg = new Set(["path", "line", "text"]);

// What was opened stays open, and what had the focus keeps it.
function show(place, ...children) {
  const focus = document.activeElement?.dataset?.key;
  const open = new Set([...place.querySelectorAll("details[open]")].map((each) => each.dataset.key));
  place.replaceChildren(...children.flat(Infinity));
  for (const each of place.querySelectorAll("details")) if (open.has(each.dataset.key)) each.open = true;
  if (focus && !document.activeElement?.dataset?.key)
    [...place.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focus)?.focus();
}

function list(pairs) {
  const there = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, there.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function table(caption, heads, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((each) => el("th", { scope: "col" }, each)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) =>
        cell instanceof Node && cell.tagName === "TD" ? cell : el("td", {}, typeof cell === "number" ? String(cell) : cell)))))));
}

const badge = (text, kind) => el("span", { class: `badge ${kind}` }, text);
const wide = (...children) => el("td", { class: "wide" }, ...children);
const number = (value) => el("td", { class: "number" }, value);
const setting = (name) => el("code", {}, name.split(/(?<=_)/).map((part, at) => (at ? [el("wbr"), part] : part)));
const spelled = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const moment = (seconds) => new Date(seconds * 1000).toLocaleString();
const milliseconds = (value) => (value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`);

function lasting(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [size, unit] = units[at], rest = units[at + 1];
  const more = rest ? Math.floor((seconds % size) / rest[0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${more ? ` ${more} ${rest[1]}` : ""}`;
}

function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let at = 0;
  while (value >= 1024 && at < 3) { value /= 1024; at++; }
  return `${Number(value.toPrecision(3))} ${units[at]}`;
}

function copyButton(what, text, key) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      say(`${what} copied`);
    } catch {
      say(`${what} could not be copied: mark it and copy it yourself`);
    }
  };
  return el("button", { type: "button", class: "small", "aria-label": `Copy ${what}`, "data-key": key, on: { click: copy } }, "Copy");
}

function say(text) { $("said").textContent = ""; setTimeout(() => { $("said").textContent = text; }, 50); }
function notice(text) { $("notice").hidden = !text; if ($("notice").textContent !== text) $("notice").textContent = text; }

// --- the service ---------------------------------------------------------------------------------

// The key with which the page was opened goes out as a header, and out of sight.
let key = new URLSearchParams(location.search).get("code") || sessionStorage.getItem("key") || "";
const base = location.pathname.replace(/\/(docs)?$/, "");
const first = /\/docs$/.test(location.pathname) ? "api" : "models";
if (location.search) history.replaceState(null, "", `${base}/${location.hash || `#${first}`}`);
let status = null, documents = null, rows = [], columns = {};

function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { "x-functions-key": key } : {}) };
  return fetch(base + path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
}

async function refresh() {
  const since = rows.length ? rows[rows.length - 1][0] : 0;
  let answer;
  try {
    answer = await ask(`/status?since=${since}`);
  } catch {
    notice("The service does not answer. This page asks again every 5 seconds.");
    return;
  }
  if (answer.status === 401 || answer.status === 403) {
    if (key) notice("The key is refused.");
    $("key-form").hidden = false;
    return;
  }
  if (!answer.ok) { notice(`/status answers ${answer.status}.`); return; }
  $("key-form").hidden = true;
  if (key) sessionStorage.setItem("key", key);
  status = await answer.json();
  notice(status.error ? "The service could not be started; what failed is below." : "");
  columns = Object.fromEntries(status.history.columns.map((name, at) => [name, at]));
  rows = rows.concat(status.history.rows).filter((row) => row[0] > status.time - SHOWN_SECONDS - POLL_MS / 1000);
  showAll();
  if (!documents) await askForDocuments();
}

async function askForDocuments() {
  const answer = await ask("/swagger.json?version=3.1").catch(() => null);
  if (!answer?.ok) return;
  documents = await answer.json();
  showApi();
  chooseModel();
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, POLL_MS);
}

// --- what is served ------------------------------------------------------------------------------

const stateKind = (state) => (state === "Healthy" ? "good" : state === "Transitioning" ? "" : "bad");

function showAll() {
  const ready = status.state === "Healthy" && !status.ready ? "Healthy, not ready" : status.state;
  document.title = `${status.service}: ${ready}`;
  $("title").textContent = status.service;
  $("state").textContent = ready;
  $("state").className = `badge ${status.ready ? "good" : stateKind(status.state) || (status.state === "Healthy" ? "bad" : "")}`;
  showService();
  show($("model-list"), status.models.map(modelCard));
  show($("trigger-list"), status.triggers.map(triggerCard));
  showCharts();
  if (!$("try-model").options.length) fillModels();
  if (!$("setting-list").firstChild) { showLimits(); showSettings(); }
}

function showService() {
  const versions = Object.entries(status.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  show($("service"), status.error ? [el("h3", {}, "Why it could not be started"), el("pre", { tabindex: "0" }, status.error)] : [],
    el("div", { class: "card" }, list([
      ["up for", lasting(status.uptime_seconds)],
      ["memory", bytes(status.memory_bytes)],
      ["workers", status.workers.map((each) => `${each.process} (${bytes(each.memory_bytes)})`).join(", ")],
      ["versions", versions],
    ])));
}

function modelCard(model) {
  const specs = (caption, all) => (all.length ? el("details", { "data-key": `${model.name}:${model.version} ${caption}` },
    el("summary", {}, `${caption} (${all.length})`),
    table(`${caption} of ${model.name}:${model.version}`, ["name", "type", "shape", ""],
      all.map((each) => [each.name, each.datatype, each.shape.join(" × ").replaceAll("-1", "any"), each.optional ? "optional" : ""]))) : null);
  const failed = model.last_error;
  return el("article", { class: "card" },
    el("h3", {}, `${model.name}:${model.version} `, badge(model.state, stateKind(model.state))),
    list([
      ["since", moment(model.since)],
      ["kind", model.platform ? `${model.kind}, ${model.platform}` : model.kind],
      ["paths", el("span", {}, model.paths.map((each) => [el("code", {}, each), " "]).flat())],
      ["default", model.default ? "yes" : null],
      ["SHA-256", model.sha256 && el("code", {}, model.sha256)],
      ["waiting, in flight", `${model.waiting}, ${model.in_flight}`],
      ["signature", model.inputs.length || !model.platform ? null : "the body as it is"],
    ]),
    specs("inputs", model.inputs), specs("outputs", model.outputs),
    failed && el("p", { class: "trouble" }, `Last error: ${moment(failed.time)}, ${failed.outcome} (${failed.status}): ${HINTS[failed.outcome]}. `,
      el("br"), "Id ", el("code", {}, failed.request_id), copyButton("the id", () => failed.request_id, `last ${model.name}:${model.version}`)));
}

// --- triggers ------------------------------------------------------------------------------------

function inputRow(each) {
  return [
    number(clock(each.time)), el("td", {}, badge(each.outcome, each.outcome === "scored" ? "good" : "bad")),
    el("td", { class: "id" }, el("code", {}, each.request_id), copyButton(`the id ${each.request_id}`, () => each.request_id, `id ${each.request_id}`)),
    el("td", { class: "name" }, each.what), each.status, number(milliseconds(each.milliseconds)),
    number(milliseconds(each.queue_milliseconds)), number(milliseconds(each.run_milliseconds)), each.model,
  ];
}

function triggerCard(trigger) {
  const heads = ["time", "outcome", "id", "input", "status", "in all", "in queue", "in run()", "model"];
  const lag = trigger.lag_seconds;
  const within = (bound) => (bound === null ? "more than an hour" : `${bound} s`);
  return el("article", { class: "card", id: `trigger-${trigger.name}` },
    el("h3", {}, `${trigger.name} `, badge(trigger.up ? "up" : "down", trigger.up ? "good" : "bad")),
    trigger.trouble && el("p", { class: "trouble" }, trigger.trouble),
    list([
      ...Object.entries(trigger.listens).map(([name, value]) => [name, el("code", {}, value || "none")]),
      ["in flight", String(trigger.in_flight)],
      ["since the start", Object.entries(trigger.counted).map(([name, count]) => `${count} ${name}`).join(", ")],
      ["retries", trigger.retries?.toString()],
      ["dead letters", trigger.dead_letters?.toString()],
      ["error documents", trigger.error_documents?.toString()],
      ["lag", lag && `${lag.mean} s on average, half within ${within(lag.p50)}, 99 % within ${within(lag.p99)}`],
    ]),
    trigger.last.length ? table(`Last inputs of ${trigger.name}`, heads, trigger.last.map(inputRow)) : el("p", {}, "No input yet."),
    trigger.last_failed.length ? el("details", { "data-key": `failed ${trigger.name}` },
      el("summary", {}, `The last ${trigger.last_failed.length} that were not scored`),
      table(`Last inputs of ${trigger.name} that were not scored`, [...heads, "why"],
        trigger.last_failed.map((each) => [...inputRow(each), wide(HINTS[each.outcome])]))) : null);
}

// --- charts --------------------------------------------------------------------------------------

function changes(make) {
  return rows.slice(1).map((row, at) => {
    const before = rows[at], seconds = row[0] - before[0];
    const change = (name) => row[columns[name]] - before[columns[name]];
    const restarted = change("scored") < 0 || seconds > 60;
    return [row[0], restarted ? null : make(change, seconds, row)];
  });
}

const OUTCOMES = ["scored", "refused", "failed", "timeout", "unavailable"];
const sum = (change, names) => names.reduce((total, name) => total + change(name), 0);
const value = (name) => rows.map((row) => [row[0], row[columns[name]]]);

function quantile(share) {
  const names = Object.keys(columns).filter((name) => name.startsWith("within_"));
  return changes((change) => {
    const counts = names.map(change), total = counts.reduce((a, b) => a + b, 0);
    if (!total) return null;
    let seen = 0, lower = 0;
    for (const [at, count] of counts.entries()) {
      const upper = Number(names[at].slice(7)) || lower;
      if (seen + count >= share * total) return (lower + (upper - lower) * ((share * total - seen) / count)) * 1000;
      seen += count;
      lower = upper;
    }
    return null;
  });
}

function charts() {
  const perSecond = (names) => changes((change, seconds) => sum(change, names) / seconds);
  const found = [
    ["Rate", "per second", [["inputs", perSecond(OUTCOMES)]]],
    ["Time to answer", "ms", [["p50", quantile(0.5)], ["p99", quantile(0.99)]]],
    ["Queue", "waiting", [["inputs", value("queue_depth")]]],
    ["Time in the queue", "ms", [["mean", changes((change) => (change("queued") ? (change("queue_seconds") / change("queued")) * 1000 : null))]]],
    ["Errors", "per second", [["not scored", perSecond(OUTCOMES.slice(1))]]],
    ["Memory", "MiB", [["all workers", value("memory_bytes").map(([time, held]) => [time, held / 1048576])]]],
  ];
  const kept = changes((change) => {
    const all = change("cache_hits_total") + change("cache_misses_total");
    return all ? (change("cache_hits_total") / all) * 100 : null;
  });
  const last = rows[rows.length - 1];
  if (last && last[columns.cache_hits_total] + last[columns.cache_misses_total])
    found.splice(5, 0, ["Cache hits", "%", [["hits", kept]]]);
  return found;
}

function showCharts() { show($("chart-list"), charts().map(([title, unit, series]) => el("div", { class: "card" }, chart(title, unit, series)))); }

const short = (number) => (number === null || number === undefined ? "–" : number >= 100 ? Math.round(number).toString() : Number(number.toPrecision(3)).toString());

function chart(title, unit, series) {
  const width = 480, height = 150, left = 48, bottom = 22, now = status.time;
  const values = series.flatMap(([, points]) => points.map(([, each]) => each)).filter((each) => each !== null);
  const most = nice(Math.max(0, ...values));
  const x = (time) => left + (1 - (now - time) / SHOWN_SECONDS) * (width - left - 4);
  const y = (each) => 8 + (1 - each / most) * (height - bottom - 8);
  const latest = series.map(([name, points]) => `${name} ${short(points[points.length - 1]?.[1])}`);
  const label = `${title}, ${unit}, over 15 minutes: now ${latest.join(", ")}; most ${short(values.length ? Math.max(...values) : null)}`;
  const text = (at, across, words, anchor) => el("text", { x: at, y: across, "text-anchor": anchor }, words);
  return el("figure", {}, el("figcaption", {}, el("strong", {}, `${title}, ${unit}`),
    el("span", {}, series.map(([name, points], at) => el("span", { class: series.length > 1 ? `key ${at ? "two" : ""}` : "" }, `${name} ${short(points[points.length - 1]?.[1])} `)))),
  el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    [0, most / 2, most].map((each) => [el("line", { class: "grid", x1: left, x2: width - 4, y1: y(each), y2: y(each) }), text(left - 6, y(each) + 4, short(each), "end")]).flat(),
    text(left, height - 5, "15 min ago", "start"), text(width - 4, height - 5, "now", "end"),
    series.map(([, points], at) => el("path", { class: at ? "two" : "", d: line(points, x, y) }))));
}

// Over times without an input it goes on: else what comes now and then were dots.
function line(points, x, y) {
  const there = points.filter(([, each]) => each !== null);
  return there.map(([time, each], at) => `${at ? "L" : "M"}${x(time).toFixed(1)} ${y(each).toFixed(1)}${at ? "" : "h.1"}`).join("");
}

function nice(most) {
  if (most <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((each) => each * size).find((each) => each >= most);
}

// --- settings ------------------------------------------------------------------------------------

function showLimits() {
  show($("limit-list"), table("Limits in force", ["what", "how much", "setting"], status.limits.map((each) => [
    each.what, number(each.unit === "bytes" ? bytes(each.value) : `${each.value ? each.value.toLocaleString("en") : "none"} ${each.value ? each.unit : ""}`), el("td", {}, setting(each.setting))])));
}

function showSettings() {
  const words = $("filter").value.toLowerCase(), onlySet = $("only-set").checked;
  const wanted = status.settings.filter((each) =>
    (!onlySet || each.source !== "default") && `${each.name} ${each.does} ${each.value}`.toLowerCase().includes(words));
  const groups = [...new Set(wanted.map((each) => each.group))];
  show($("setting-list"), groups.length ? [] : el("p", {}, "None."), groups.map((group) =>
    [el("h4", {}, group), table(group, ["setting", "value", "from", "what it does"], wanted.filter((each) => each.group === group).map((each) => [
      el("td", {}, setting(each.name)), el("td", {}, each.value ? el("code", {}, each.value) : "–"), each.source, wide(spelled(each.does))]))]).flat());
}

// --- the reference -------------------------------------------------------------------------------

function resolved(schema, depth = 0) {
  if (Array.isArray(schema)) return schema.map((each) => resolved(each, depth));
  if (!schema || typeof schema !== "object" || depth > 8) return schema;
  if (schema.$ref) return resolved(schema.$ref.split("/").slice(1).reduce((at, part) => at?.[part], documents), depth + 1);
  return Object.fromEntries(Object.entries(schema).map(([name, each]) => [name, name === "example" ? each : resolved(each, depth + 1)]));
}

const written = (json) => el("pre", { tabindex: "0" }, JSON.stringify(json, null, 2));

function contentOf(content) {
  return Object.entries(content || {}).map(([type, each]) => {
    const { example, ...schema } = resolved(each.schema) || {};
    return [el("p", {}, el("code", {}, type)), Object.keys(schema).length && type.endsWith("json") ? written(schema) : null,
      example !== undefined && type.endsWith("json") ? [el("p", {}, "Example"), written(example)] : null].flat();
  }).flat();
}

function operation(path, method, about) {
  const shown = new Set();
  const once = (content) => {  // most errors have one body
    const key = JSON.stringify(content);
    if (shown.has(key)) return [];
    shown.add(key);
    return contentOf(content);
  };
  const name = `${method.toUpperCase()} ${path}`;
  return el("details", { "data-key": name },
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), ` ${path} `),
    el("p", {}, spelled(about.description || about.summary || "")),
    about.parameters ? table(`Parameters of ${name}`, ["name", "in", "required", "what"], about.parameters.map((each) =>
      [el("td", {}, el("code", {}, each.name)), each.in, each.required ? "yes" : "no", each.description || JSON.stringify(each.schema || {})])) : null,
    about.requestBody ? [el("h4", {}, "Body"), ...contentOf(about.requestBody.content)] : [],
    el("h4", {}, "Answers"),
    Object.entries(about.responses || {}).map(([code, each]) => [el("p", {}, el("strong", {}, code), ` ${each.description || ""}`), ...once(each.content)]).flat());
}

function showApi() {
  const operations = Object.entries(documents.paths || {}).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => operation(path, method, about)));
  const versions = ["2", "3", "3.1"].map((each) => [el("code", {}, `/swagger.json?version=${each}`), " "]).flat();
  show($("api-list"), el("p", {}, `${documents.info?.title || ""} ${documents.info?.version || ""}. ${documents.info?.description || ""}`),
    el("p", {}, "As a document: ", versions), el("div", { class: "card" }, operations));
}

// --- try it --------------------------------------------------------------------------------------

let file = null, fileUrl = "";
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const kind = () => chosen("kind");
const model = () => status.models[Number($("try-model").value)];
const pathOf = (each) => (each.default ? each.paths[0] : each.paths[each.paths.length - 1]);

function fillModels() {
  show($("try-model"), status.models.map((each, at) => el("option", { value: at, selected: each.default }, `${each.name}:${each.version} (${pathOf(each)})`)));
}

function sample() {
  const path = Object.keys(documents?.paths || {}).find((each) => each.endsWith(pathOf(model())));
  const content = path && documents.paths[path].post?.requestBody?.content;
  return resolved(content?.["application/json"]?.schema)?.example;
}

function chooseModel() {
  if (!status) return;
  const example = sample();
  $("try-json").value = example === undefined ? "{}" : onOneLine(JSON.stringify(example, null, 1));
  $("try-csv").value = asCsv(example);
  chooseKind();
}

function asCsv(example) {
  const data = example && Object.values(example).find(Array.isArray);
  if (!data?.length) return "";
  const cell = (each) => (each === null || each === undefined ? "" : /[",\n]/.test(String(each)) ? `"${String(each).replaceAll('"', '""')}"` : String(each));
  const names = Array.isArray(data[0]) || typeof data[0] !== "object" ? null : Object.keys(data[0]);
  const lines = data.map((row) => (names ? names.map((name) => row[name]) : [row].flat()).map(cell).join(","));
  return (names ? [names.map(cell).join(","), ...lines] : lines).join("\n");
}

function chooseKind() {
  for (const each of ["json", "form", "csv", "file"]) $(`input-${each}`).hidden = each !== kind();
  $("try-type").value = { json: "application/json", form: "application/json", csv: "text/csv", file: file?.type || "application/octet-stream" }[kind()];
  if (kind() === "form") showForm();
  showSame();
}

function leaves(json, path = []) {
  if (json === null || typeof json !== "object") return [[path, json]];
  return Object.entries(json).flatMap(([name, each]) => leaves(each, [...path, name]));
}

function showForm() {
  let json;
  try { json = JSON.parse($("try-json").value); } catch { show($("input-form"), el("p", {}, "The JSON cannot be read; mend it first.")); return; }
  const all = leaves(json);
  const fields = all.slice(0, MOST_FIELDS).map(([path, value], at) => {
    const change = (event) => {
      const before = path.slice(0, -1).reduce((part, name) => part[name], json), text = event.target.value;
      before[path[path.length - 1]] = typeof value === "string" ? text : parsed(text);
      $("try-json").value = JSON.stringify(json, null, 1);
      showSame();
    };
    return el("div", {}, el("label", { for: `field-${at}` }, path.join(" › ")),
      el("input", { id: `field-${at}`, value: String(value), disabled: !path.length, inputmode: typeof value === "number" ? "decimal" : false, on: { input: change } }));
  });
  show($("input-form"), el("div", { class: "fields" }, fields), all.length > MOST_FIELDS ? el("p", {}, `${all.length - MOST_FIELDS} more are in the JSON.`) : []);
}

function parsed(text) { try { return JSON.parse(text); } catch { return text; } }

function chooseFile() {
  file = $("try-file").files[0] || null;
  if (fileUrl) URL.revokeObjectURL(fileUrl);
  fileUrl = file ? URL.createObjectURL(file) : "";
  show($("file-shown"), file && file.type.startsWith("image/") ? el("img", { class: "shown", src: fileUrl, alt: `The image ${file.name}` }) : [],
    file ? el("p", {}, `${file.name}, ${bytes(file.size)}`) : []);
  chooseKind();
}

const bodyText = () => (kind() === "csv" ? $("try-csv").value : $("try-json").value);

async function send(event) {
  event.preventDefault();
  if (kind() === "file" && !file) { $("try-summary").textContent = "Choose a file first."; return; }
  $("try-send").disabled = true;
  $("try-summary").textContent = "Scoring…";
  const began = performance.now();
  try {
    const answer = await ask(pathOf(model()), { method: "POST", body: kind() === "file" ? file : bodyText(), headers: { "content-type": $("try-type").value } });
    const body = await answer.blob();
    await showAnswer(answer, body, performance.now() - began);
  } catch (error) {
    $("try-summary").textContent = `There is no answer: ${error.message}`;
  }
  $("try-send").disabled = false;
}

async function showAnswer(answer, body, took) {
  const type = answer.headers.get("content-type") || "", id = answer.headers.get("x-request-id") || "";
  const run = Number(answer.headers.get("x-ms-run-fn-exec-ms") ?? NaN);
  $("try-summary").textContent = `${answer.status} ${answer.statusText}, ${milliseconds(took)}, ${bytes(body.size)}`;
  $("try-summary").className = answer.ok ? "" : "trouble";
  show($("try-answer"), await shownBody(type, body));
  const times = (waited) => show($("try-times"), ...list([
    ["in the queue", waited],
    ["in run()", Number.isNaN(run) ? "–" : milliseconds(run)],
    ["content type", type],
    ["id", el("span", {}, el("code", {}, id), copyButton("the id", () => id, "answer-id"))],
  ]).children);
  times("…");
  await refresh();
  const found = status.triggers.find((each) => each.name === "http");
  const mine = [...(found?.last || []), ...(found?.last_failed || [])].find((each) => each.request_id === id);
  times(mine ? milliseconds(mine.queue_milliseconds) : "not known: others came after it");
}

async function shownBody(type, body) {
  if (type.startsWith("image/")) return el("img", { class: "shown", src: URL.createObjectURL(body), alt: "The image that was answered" });
  if (!/json|text|csv|xml|javascript/.test(type)) return el("p", {}, `${bytes(body.size)} of ${type || "no content type"}`);
  const text = await body.slice(0, LONGEST_SHOWN).text();
  return el("pre", {}, type.includes("json") ? indented(text) : text, body.size > LONGEST_SHOWN ? "\n…" : "");
}

// JSON with its numbers as they were sent: to parse and write it would change some.
function indented(text) {
  let depth = 0;
  const begin = (change) => `\n${" ".repeat(Math.max(0, depth += change))}`;
  const lines = text.replace(/"(?:[^"\\]|\\.)*"|[{}[\],]\s*/g, (token) => {
    if (token[0] === '"') return token;
    if ("{[".includes(token[0])) return token[0] + begin(1);
    return "}]".includes(token[0]) ? begin(-1) + token[0] : token[0] + begin(0);
  });
  return onOneLine(lines);
}

// Arrays of values alone.
const onOneLine = (lines) => lines.replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inside) => `[${inside.replace(/\n\s*/g, " ")}]`);

// --- the same request elsewhere ------------------------------------------------------------------

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function parts() {
  const isFile = kind() === "file", type = $("try-type").value, name = isFile ? file?.name || "FILE" : kind() === "csv" ? "sample.csv" : "sample.json";
  return { isFile, type, name, text: isFile ? "" : bodyText(), url: location.origin + base + pathOf(model()), named: model().default ? "" : `${model().name}:${model().version}` };
}

const SAME = {
  curl() {
    const { isFile, type, name, text, url } = parts();
    const lines = [`curl ${quoted(url)}`, `-H ${quoted(`Content-Type: ${type}`)}`];
    if (key) lines.push('-H "x-functions-key: $FUNCTION_KEY"');
    return [[...lines, isFile ? `--data-binary ${quoted(`@${name}`)}` : `--data-binary ${quoted(text)}`].join(" \\\n  "), ""];
  },
  python() {
    const { isFile, type, name, text, url } = parts();
    const headers = [`    "Content-Type": ${JSON.stringify(type)},`, ...(key ? ['    "x-functions-key": os.environ["FUNCTION_KEY"],'] : [])];
    const body = isFile ? `Path(${JSON.stringify(name)}).read_bytes()` : `${JSON.stringify(text)}.encode()`;
    return [[...(key ? ["import os"] : []), "import urllib.request", ...(isFile ? ["from pathlib import Path"] : []), "",
      `body = ${body}`, "headers = {", ...headers, "}",
      `request = urllib.request.Request(${JSON.stringify(url)}, body, headers)`,
      "with urllib.request.urlopen(request) as answer:", "    print(answer.read().decode())"].join("\n"), ""];
  },
  blob() {
    const { isFile, type, name, text, named } = parts();
    const listens = status.triggers.find((each) => each.name === "blob")?.listens;
    const [stem, extension] = [name.replace(/\.[^.]*$/, ""), name.slice(name.lastIndexOf("."))];
    const template = (listens?.input || "input/{blobname}.json").replace(/^\//, "");
    const fits = template.replaceAll("{model}", named || model().name).replaceAll(/\{[^}]*\}/g, stem);
    const container = fits.split("/")[0], path = fits.split("/").slice(1).join("/");
    if (listens?.folder) return [isFile ? `cp ${quoted(name)} ${quoted(`${listens.folder}/`)}` : `printf '%s' ${quoted(text)} > ${quoted(`${listens.folder}/${stem}${extension}`)}`, "This host watches a folder."];
    const lines = ["az storage blob upload --auth-mode login --account-name ACCOUNT", `--container-name ${quoted(container)} --name ${quoted(path)}`, `--content-type ${quoted(type)}`];
    if (named) lines.push(`--metadata ${quoted(`model=${named}`)}`);
    const more = listens ? `The answer is written to ${listens.output}.` : "The trigger blob is off here: SCORING_TRIGGERS and BLOB_CONNECTION turn it on.";
    return [[...lines, isFile ? `--file ${quoted(name)}` : `--data ${quoted(text)}`].join(" \\\n  "), more];
  },
  message() {
    const { isFile, type, name, text, named } = parts();
    const listens = status.triggers.find((each) => each.name === "service_bus")?.listens;
    const lines = ["az rest --method post --resource https://servicebus.azure.net",
      `--url ${quoted(`https://NAMESPACE.servicebus.windows.net/${(listens?.input || "input").split("/")[0]}/messages`)}`,
      `--headers ${quoted(`Content-Type=${type}`)}${named ? ` ${quoted(`model="${named}"`)}` : ""}`];
    const more = listens ? `The reply goes to the queue ${listens.output || "that the message names"}.` : "The trigger service_bus is off here: SCORING_TRIGGERS and SERVICEBUS_CONNECTION turn it on.";
    return [[...lines, isFile ? `--body ${quoted(`@${name}`)}` : `--body ${quoted(text)}`].join(" \\\n  "), more];
  },
};

function showSame() {
  if (!status) return;
  const [text, note] = SAME[chosen("as")]();
  $("same").textContent = text;
  $("same-note").textContent = note;
  $("same-note").hidden = !note;
}

// --- the page ------------------------------------------------------------------------------------

const PARTS = ["models", "try", "triggers", "charts", "settings", "api"];

function turn() {
  const asked = location.hash.slice(1), part = PARTS.includes(asked) ? asked : first;
  for (const each of PARTS) $(each).hidden = each !== part;
  for (const each of document.querySelectorAll("nav a")) {
    if (each.hash === `#${part}`) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

addEventListener("hashchange", () => { turn(); scrollTo(0, 0); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); key = $("key").value; $("key").value = ""; refresh(); });
$("try-form").addEventListener("submit", send);
$("try-model").addEventListener("change", chooseModel);
$("try-file").addEventListener("change", chooseFile);
for (const id of ["try-json", "try-csv", "try-type"]) $(id).addEventListener("input", showSame);
for (const each of document.querySelectorAll("input[name=kind]")) each.addEventListener("change", chooseKind);
for (const each of document.querySelectorAll("input[name=as]")) each.addEventListener("change", showSame);
$("same-copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText($("same").textContent); say("The request is copied"); } catch { say("It could not be copied: mark it and copy it yourself"); }
});
$("filter").addEventListener("input", showSettings);
$("only-set").addEventListener("change", showSettings);
turn();
poll();
