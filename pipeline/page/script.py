"""The one script of the page: tiles that open, filters, sorting, copying. It reads what stands in the page, as text.

Without it the page shows all the same: what needs it is `hidden` until it runs. The page's policy allows this text by
its digest, and no other.
"""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const dialog = document.getElementById("opened");
let shown = null;
const wake = (within) => all("[data-script]", within).forEach((one) => { one.hidden = false; });

function open(button) {
  const found = document.getElementById("opened-" + button.dataset.open);
  if (!found || !dialog) return;
  const body = found.content.cloneNode(true);
  const slot = body.querySelector(".picture");
  const small = button.firstElementChild.cloneNode(true);
  if (slot && !slot.firstElementChild) slot.append(small);
  wake(body);
  dialog.querySelector(".body").replaceChildren(body);
  shown = button;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const seen = all("button.open").filter((one) => one.checkVisibility());
  const next = seen[seen.indexOf(shown) + by];
  if (next) open(next);
}

async function copy(button) {
  const text = button.dataset.copy;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = document.createElement("textarea");
    area.value = text;
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.said || button.textContent;
  button.dataset.said = before;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 2000);
}

function arrange(form) {
  const sheet = document.getElementById(form.dataset.sheet);
  const cards = all("figure", sheet);
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const least = Number(value("least") || 0);
  const wrong = form.elements.wrong && form.elements.wrong.checked;
  let left = 0;
  cards.forEach((card) => {
    const fits = (!value("class") || card.dataset.class === value("class"))
      && (!least || 100 * Number(card.dataset.score) >= least)
      && (!wrong || card.dataset.wrong === "1");
    card.hidden = !fits;
    left += fits;
  });
  if (form.elements.sort) {
    const [column, way] = value("sort").split(" ");
    const key = (card) => column === "" ? null : card.dataset["v" + column];
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const numeric = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return (numeric ? x - y : x < y ? -1 : x > y) * (way === "down" ? -1 : 1);
    };
    const place = (card) => Number(card.dataset.place);
    cards.sort((a, b) => (column === "" ? 0 : compare(a, b)) || place(a) - place(b));
    sheet.append(...cards);
  }
  all("output[data-for=least]", form).forEach((one) => { one.textContent = least + " %"; });
  all("output[data-for=count]", form).forEach((one) => { one.textContent = left + " of " + cards.length; });
}

wake(document);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === dialog) dialog.close();
  if (!button) return;
  if (button.classList.contains("open")) open(button);
  if (button.classList.contains("copy")) copy(button);
  if (button.classList.contains("close")) dialog.close();
  if (button.classList.contains("turn")) step(Number(button.dataset.by));
});
if (dialog) {
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => { if (shown) shown.focus(); });
}
all("form[data-sheet]").forEach((form) => {
  form.addEventListener("input", () => arrange(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => arrange(form)));
  arrange(form);
});
"""

DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
