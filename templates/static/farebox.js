// All of the console's script: fresh figures, copy buttons, secrets that hide again, the time zone.
// Every page works without it.

const REFRESH_SECONDS = 30;
const COOKIE_YEAR = "max-age=31536000; path=/; samesite=strict";
let readAt = Date.now();

// Fresh figures: elements marked `data-refresh` are replaced by those of the same id.

function openParts(root) {
  return [...root.querySelectorAll("details[open]")].map((part) => part.querySelector("summary")?.textContent);
}

function within(root, selector) {
  return [root, ...root.querySelectorAll(selector)].filter((each) => each.matches(selector));
}

function swap(old, fresh) {
  const open = openParts(old);
  const scrolls = within(old, ".scroll").map((box) => [box.scrollLeft, box.scrollTop]);
  const held = old.contains(document.activeElement) ? placeOf(document.activeElement, old) : null;
  old.replaceWith(fresh);
  for (const part of fresh.querySelectorAll("details")) {
    if (open.includes(part.querySelector("summary")?.textContent)) part.open = true;
  }
  within(fresh, ".scroll").forEach((box, index) => {
    [box.scrollLeft, box.scrollTop] = scrolls[index] ?? [0, 0];
  });
  showCopyButtons(fresh);
  if (held) at(held, fresh)?.focus({ preventScroll: true });
}

// What has the focus, to be found again: by what it is, and which of those alike.

const REACHED = "a, button, summary, [tabindex]";

function describe(element) {
  const names = ["id", "href", "aria-label", "data-copy", "value"].map((name) => element.getAttribute(name));
  const told = names.slice(1, 4).some(Boolean) ? "" : element.textContent;
  return [element.tagName, ...names, told].join(" ");
}

function alike(root, name) {
  return within(root, REACHED).filter((each) => describe(each) === name);
}

function placeOf(element, root) {
  const name = describe(element);
  return { itself: element === root, name, index: alike(root, name).indexOf(element) };
}

function at(held, root) {
  return held.itself ? root : alike(root, held.name)[held.index];
}

function busy(part) {
  const at = document.activeElement;
  return part.contains(at) && at.matches("input, textarea, select");
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html", "farebox-refresh": "1" } });
  if (answer.status === 401) return location.reload();
  if (!answer.ok) throw new Error(String(answer.status));
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-refresh][id]")) {
    const fresh = page.getElementById(old.id);
    if (fresh && !busy(old)) swap(old, document.adoptNode(fresh));
  }
  readAt = Date.now();
  sayAge("");
}

function sayAge(text) {
  const place = document.getElementById("stale");
  if (place) place.textContent = text;
}

// How often, at present: a part that is swapped may say it anew.

function pace() {
  const wishes = [...document.querySelectorAll("[data-refresh-seconds]")].map((part) => Number(part.dataset.refreshSeconds) || REFRESH_SECONDS);
  return wishes.length ? Math.min(...wishes) * 1000 : 0;
}

async function keepFresh() {
  try {
    if (!document.hidden) await refresh();
  } catch {
    const old = Math.round((Date.now() - readAt) / 1000);
    sayAge(` The node does not answer: these figures are ${old < 120 ? `${old} s` : `${Math.round(old / 60)} min`} old.`);
  }
  refreshLater();
}

function refreshLater() {
  if (pace()) setTimeout(keepFresh, pace());
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && pace() && Date.now() - readAt > pace()) refresh().catch(() => {});
});

// Copy buttons and secrets

function showCopyButtons(root) {
  for (const button of root.querySelectorAll("button.copy")) button.hidden = false;
}

async function copy(button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not copied";
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

document.addEventListener("toggle", (event) => {
  const seconds = Number(event.target.dataset?.hideSeconds);
  if (event.target.open && seconds) setTimeout(() => { event.target.open = false; }, seconds * 1000);
}, true);

// A form is sent once, however often its button is pressed.

document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) return event.preventDefault();
  event.target.dataset.sent = "1";
  setTimeout(() => { delete event.target.dataset.sent; }, 4000);
});

// The viewer's zone, for those who chose none in Settings > Appearance.

document.cookie = `farebox_zone=${Intl.DateTimeFormat().resolvedOptions().timeZone}; ${COOKIE_YEAR}`;

// In a row that scrolls, the section that is open is seen.

for (const link of document.querySelectorAll(".tabs [aria-current]")) link.scrollIntoView({ block: "nearest", inline: "nearest" });

showCopyButtons(document);
refreshLater();
