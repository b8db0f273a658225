// The settings of an appearance: skin tone, switches and sliders for what the bundle has.

const BY_SEED = "";

function element(tag, properties = {}, ...children) {
  const { dataset = {}, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Builds the settings in `place` and keeps what a person has set. `onChange(isDone)` is called when that changes. */
export class AppearanceControls {
  constructor(place, appearance, onChange) {
    this.appearance = appearance;
    this.onChange = onChange;
    this.set = {};
    this.sliders = new Map();
    const numbers = (group) => appearance.numbers.filter((number) => number.group === group);
    this.releaseAll = element("button", {
      type: "button",
      className: "quiet",
      textContent: "Release all",
      hidden: true,
    });
    this.releaseAll.addEventListener("click", () => this.release());
    const title = element("h3", {}, element("span", { textContent: "Appearance" }), this.releaseAll);
    place.append(
      title,
      element("p", {
        className: "help",
        textContent:
          "What is left alone follows from the seed, as images of lesions have it. A slider that is moved holds its number.",
      }),
    );
    if (appearance.skin_tone) place.append(this.#skinTone(appearance.skin_tone));
    place.append(
      ...numbers("switches").map((number) => (number.with === null ? this.#slider(number) : this.#switch(number))),
    );
    place.append(...numbers("main").map((number) => this.#slider(number)));
    for (const [group, label] of [
      ["spread", "Spread of colors"],
      ["styles", "Styles, which only training can measure"],
    ]) {
      if (!numbers(group).length) continue;
      const inside = element("div", { className: "group" }, ...numbers(group).map((number) => this.#slider(number)));
      place.append(element("details", {}, element("summary", { textContent: label }), inside));
    }
    this.place = place;
  }

  /** What is set: name to number. */
  get choice() {
    return { ...this.set };
  }

  /** Show what the seed gave on the sliders that are not set. */
  showDrawn(row) {
    if (!row) return;
    this.appearance.names.forEach((name, at) => {
      const slider = this.sliders.get(name);
      if (!slider) return;
      if (this.set[name] === undefined) {
        slider.input.value = row[at];
        slider.output.textContent = row[at].toFixed(slider.digits);
      }
    });
  }

  /** Leave everything to the seed again. */
  release() {
    this.set = {};
    for (const name of this.sliders.keys()) this.#mark(name);
    for (const radio of this.place.querySelectorAll("input[type=radio][value='']")) radio.checked = true;
    for (const select of this.place.querySelectorAll("select")) select.value = BY_SEED;
    this.#changed(true);
  }

  #changed(isDone) {
    this.releaseAll.hidden = !Object.keys(this.set).length;
    this.onChange(isDone);
  }

  #skinTone({ name, label, classes, meaning, replaces }) {
    const options = [
      [BY_SEED, "by seed"],
      ...classes.map(({ label: word, angle }) => [String(angle), `${word.toLowerCase()} (${angle}°)`]),
    ];
    const select = element(
      "select",
      { id: "skin-tone", title: meaning },
      ...options.map(([value, text]) => element("option", { value, textContent: text })),
    );
    select.addEventListener("change", () => {
      for (const other of replaces) {
        delete this.set[other];
        this.#mark(other);
      }
      if (select.value === BY_SEED) delete this.set[name];
      else this.set[name] = Number(select.value);
      for (const other of replaces)
        if (this.sliders.has(other)) this.sliders.get(other).input.disabled = select.value !== BY_SEED;
      this.#changed(true);
    });
    return element(
      "div",
      { className: "field" },
      element("label", { htmlFor: "skin-tone", textContent: label }),
      select,
    );
  }

  #switch({ name, label, meaning, with: typical }) {
    const choices = [
      [BY_SEED, "by seed"],
      ["0", "without"],
      [String(typical), "with"],
    ];
    const radios = choices.map(([value, text]) =>
      element("label", {}, element("input", { type: "radio", name, value, checked: value === BY_SEED }), text),
    );
    const box = element("span", { className: "choices" }, ...radios);
    box.addEventListener("change", ({ target }) => {
      if (target.value === BY_SEED) delete this.set[name];
      else this.set[name] = Number(target.value);
      this.#changed(true);
    });
    return element("fieldset", { className: "switch", title: meaning }, element("legend", { textContent: label }), box);
  }

  #slider({ name, label, meaning, unit, covered: [low, high] }) {
    const id = `number-${name}`;
    const digits = high - low > 20 ? 0 : 2;
    const input = element("input", {
      type: "range",
      id,
      min: low,
      max: high,
      step: digits ? 0.01 : 0.5,
      title: `${meaning}, ${unit}`,
    });
    const output = element("output", { textContent: "—" });
    output.htmlFor = id;
    const release = element("button", { type: "button", textContent: "Release", ariaLabel: `Release ${label}` });
    const box = element(
      "div",
      { className: "slider" },
      element("label", { htmlFor: id, textContent: label }),
      release,
      output,
      input,
    );
    this.sliders.set(name, { box, input, output, digits });
    const move = (isDone) => {
      this.set[name] = Number(input.value);
      this.#mark(name);
      this.#changed(isDone);
    };
    input.addEventListener("input", () => move(false));
    input.addEventListener("change", () => move(true));
    release.addEventListener("click", () => {
      delete this.set[name];
      this.#mark(name);
      input.focus();
      this.#changed(true);
    });
    return box;
  }

  #mark(name) {
    const slider = this.sliders.get(name);
    if (!slider) return;
    const value = this.set[name];
    slider.box.classList.toggle("is-set", value !== undefined);
    if (value !== undefined) slider.output.textContent = value.toFixed(slider.digits);
  }
}
