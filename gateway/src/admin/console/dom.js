// The few things that the page does with its document. Whatever comes from outside becomes text, never markup.

export const byId = (id) => document.getElementById(id);

/** A new element: `element("p", { class: "quiet" }, "text", child)`. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for what is drawn. */
export function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes a text only if it is another one, so that a selection within it stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The same for an attribute; `null` takes it away. */
export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Opens a dialog and gives what its form was submitted with; the focus goes back to where it was. */
export function ask(dialog) {
  return new Promise((answer) => {
    const before = document.activeElement;
    const closed = () => {
      if (before?.isConnected) before.focus();
      answer(dialog.returnValue);
    };
    dialog.returnValue = "no";
    dialog.addEventListener("close", closed, { once: true });
    dialog.showModal();
  });
}

/**
 * Tabs as the ARIA Authoring Practices have them: arrows go from tab to tab, and only the chosen one is in the order of
 * the tabulator key. Gives what chooses one by the name of its panel.
 */
export function tabs(list, chosen) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const other of all) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    chosen(tab.getAttribute("aria-controls"));
  };
  list.addEventListener("click", ({ target }) => all.includes(target) && choose(target));
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    choose(tab);
    tab.focus();
  });
  return (name) => choose(all.find((tab) => tab.getAttribute("aria-controls") === name) ?? all[0]);
}
