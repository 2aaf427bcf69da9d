// All of the console's script: fresh figures, copy buttons, secrets that hide again, the time zone.
// Every page works without it.

const REFRESH_SECONDS = 30;
const COOKIE_YEAR = "max-age=31536000; path=/; samesite=strict";
let readAt = Date.now();

// Fresh figures: elements marked `data-refresh` are replaced by those of the same id.

function openParts(root) {
  return [...root.querySelectorAll("details[open]")].map((part) => part.querySelector("summary")?.textContent);
}

function swap(old, fresh) {
  const open = openParts(old);
  const scrolls = [...old.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  const held = old.contains(document.activeElement) ? describe(document.activeElement) : null;
  old.replaceWith(fresh);
  for (const part of fresh.querySelectorAll("details")) {
    if (open.includes(part.querySelector("summary")?.textContent)) part.open = true;
  }
  [...fresh.querySelectorAll(".scroll")].forEach((box, index) => {
    [box.scrollLeft, box.scrollTop] = scrolls[index] ?? [0, 0];
  });
  if (held) [...fresh.querySelectorAll("a, button, summary, [tabindex]")].find((each) => describe(each) === held)?.focus({ preventScroll: true });
  showCopyButtons(fresh);
}

function describe(element) {
  return `${element.tagName} ${element.id} ${element.getAttribute("href")} ${element.textContent}`;
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

async function keepFresh(seconds) {
  try {
    if (!document.hidden) await refresh();
  } catch {
    const old = Math.round((Date.now() - readAt) / 1000);
    sayAge(` The node does not answer: these figures are ${old < 120 ? `${old} s` : `${Math.round(old / 60)} min`} old.`);
  }
  setTimeout(keepFresh, seconds * 1000, seconds);
}

function startRefresh() {
  const page = document.querySelector("[data-refresh-seconds]");
  if (!page) return;
  const seconds = Number(page.dataset.refreshSeconds) || REFRESH_SECONDS;
  setTimeout(keepFresh, seconds * 1000, seconds);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && Date.now() - readAt > seconds * 1000) refresh().catch(() => {});
  });
}

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
startRefresh();
