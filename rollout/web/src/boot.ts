// Before the first paint: the theme that was chosen here last.

try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is refused: the system's theme is as good
}
