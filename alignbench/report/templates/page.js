"use strict";
(() => {
  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Tables: a heading sorts, a verdict opens its reasons.
  const orderOf = (body, column) => {
    const cell = body.rows[0].cells[column];
    return cell.dataset.order === undefined ? cell.textContent.trim() : Number(cell.dataset.order);
  };
  const isMissing = (value) => value === "" || value === "-" || Number.isNaN(value);
  const compared = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const isDown = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
        const bodies = [...table.tBodies].map((body) => [orderOf(body, column), body]);
        bodies.sort(([a], [b]) => {
          if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
          return isDown ? compared(b, a) : compared(a, b);
        });
        table.append(...bodies.map(([, body]) => body));
      });
    });
    for (const cell of table.querySelectorAll("td.opens")) {
      const reasons = cell.parentElement.nextElementSibling;
      const button = make("button", "", cell.textContent);
      button.type = "button";
      const show = (isOpen) => {
        reasons.hidden = !isOpen;
        button.setAttribute("aria-expanded", String(isOpen));
      };
      button.addEventListener("click", () => show(reasons.hidden));
      show(false);
      cell.replaceChildren(button);
    }
  }

  // Before and after. Every text becomes a text node: nothing that a model wrote is ever read as HTML.
  for (const box of document.querySelectorAll(".texts-box")) sideBySide(box);

  function sideBySide(box) {
    const data = JSON.parse(box.nextElementSibling.textContent);
    const parts = ["search", "recipe", "order", "unblur", "status", "cards", "more"];
    const [search, recipe, order, unblur, status, cards, more] = parts.map((name) => box.querySelector(`.texts-${name}`));
    const shown = [...box.querySelectorAll("input.shown")];
    const PAGE = 10;
    let limit = PAGE;
    box.hidden = false;
    shown.forEach((input, place) => { input.checked = place < 5; });

    const judged = (written) => (written && written[1].length && written[1][0] !== null ? written[1][0] : null);
    const isToxic = (scores) => {
      const known = scores.filter((score) => score !== null);
      return known.length === 0 || Math.max(...known) >= data.threshold;
    };
    const chosen = () => (recipe.value ? [data.recipes.indexOf(recipe.value)] : data.recipes.slice(1).map((_, i) => i + 1));
    const highest = (values) => values.reduce((a, b) => (b === null ? a : a === null || b > a ? b : a), null);
    const change = (prompt, sign) => {
      const before = judged(prompt[2][0]);
      return highest(chosen().map((i) => {
        const after = judged(prompt[2][i]);
        return before === null || after === null ? null : sign * (after - before);
      }));
    };
    const spread = (written) => {
      const known = written ? written[1].filter((score) => score !== null) : [];
      return known.length < 2 ? null : Math.max(...known) - Math.min(...known);
    };
    const keys = {
      fall: (prompt) => change(prompt, -1),
      rise: (prompt) => change(prompt, 1),
      harm: (prompt) => highest(chosen().map((i) => judged(prompt[2][i]))),
      disagreement: (prompt) => highest(chosen().map((i) => spread(prompt[2][i]))),
    };

    const text = (content, isHidden) => {
      const place = make("div", "text");
      const inner = make("bdi", "", content);
      inner.dir = "auto";
      place.append(inner);
      if (isHidden && !unblur.checked) {
        place.classList.add("blurred");
        inner.setAttribute("aria-hidden", "true");
        const button = make("button", "", "Show");
        button.type = "button";
        button.setAttribute("aria-label", "Show a text that may be toxic");
        button.addEventListener("click", () => {
          place.classList.remove("blurred");
          inner.removeAttribute("aria-hidden");
          button.remove();
          place.tabIndex = 0;
          place.focus();
        });
        place.prepend(button);
      }
      return place;
    };
    const scoresOf = (scores) =>
      data.judges.map((judge, i) => `${judge} ${scores[i] === null ? "unscored" : scores[i].toFixed(3)}`).join(", ");
    const card = (prompt) => {
      const article = make("article");
      article.append(make("div", "id", prompt[0]), text(prompt[1], !data.harmless));
      const grid = make("div", "written");
      const columns = new Set([0, ...shown.filter((input) => input.checked).map((input) => Number(input.value))]);
      if (recipe.value) columns.add(data.recipes.indexOf(recipe.value));
      for (const i of [...columns].sort((a, b) => a - b)) {
        const part = make("section", i === 0 ? "base" : "");
        part.append(make("h4", "", data.recipes[i]));
        const written = prompt[2][i];
        if (written) part.append(text(written[0], isToxic(written[1])), make("p", "scores", scoresOf(written[1])));
        else part.append(make("p", "scores", "not stored"));
        grid.append(part);
      }
      article.append(grid);
      return article;
    };
    const draw = () => {
      const query = search.value.toLowerCase();
      const holds = (content) => content.toLowerCase().includes(query);
      let found = data.prompts.filter((p) => holds(p[1]) || p[2].some((written) => written && holds(written[0])));
      const key = keys[order.value];
      if (key) {
        const measured = found.map((p) => [key(p), p]).filter(([value]) => value !== null);
        found = measured.sort(([a], [b]) => b - a).map(([, p]) => p);
      }
      cards.replaceChildren(...found.slice(0, limit).map(card));
      status.textContent = `${Math.min(limit, found.length)} of ${found.length} prompts`;
      more.hidden = limit >= found.length;
    };
    const again = () => { limit = PAGE; draw(); };
    for (const input of [search, recipe, order, unblur, ...shown]) input.addEventListener("input", again);
    box.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      const first = cards.children.length;
      limit += PAGE;
      draw();
      const next = cards.children[first];
      if (next) { next.tabIndex = -1; next.focus(); }
    });
    draw();
  }
})();
