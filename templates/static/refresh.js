// Replaces the page's figures in place; scroll and focus stay. Without it a reload does the same.

const page = () => document.getElementById("page");
let readAt = Date.now();

function swap(fresh, id) {
  const now = document.getElementById(id);
  const next = fresh.getElementById(id);
  if (now && next) now.replaceWith(document.adoptNode(next));
}

async function refresh() {
  if (document.hidden) return;
  const focused = document.activeElement?.getAttribute("href");
  const scrolled = document.querySelector(".scroll")?.scrollLeft ?? 0;
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) throw new Error(String(answer.status));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  swap(fresh, "page");
  swap(fresh, "uptime");
  const table = document.querySelector(".scroll");
  if (table) table.scrollLeft = scrolled;
  if (focused) document.querySelector(`#page a[href="${CSS.escape(focused)}"]`)?.focus();
  readAt = Date.now();
}

function sayStale() {
  const minutes = Math.round((Date.now() - readAt) / 60000);
  const stale = document.getElementById("stale");
  if (stale) stale.textContent = ` · not refreshed for ${minutes} min: the node does not answer`;
}

async function loop() {
  try {
    await refresh();
  } catch {
    sayStale();
  }
  setTimeout(loop, Number(page()?.dataset.refreshSeconds ?? 30) * 1000);
}

setTimeout(loop, Number(page()?.dataset.refreshSeconds ?? 30) * 1000);
