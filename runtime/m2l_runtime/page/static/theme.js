// Choose dark or light: as the system does, or by the button, which is remembered.

const THEMES = ["auto", "light", "dark"];
const KEY = "m2l-theme";

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage is switched off
  }
}

/** Let `button` go through the themes. */
export function watchTheme(button) {
  const use = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  use(THEMES.includes(remembered()) ? remembered() : THEMES[0]);
  button.addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    use(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it is not remembered
    }
  });
}
