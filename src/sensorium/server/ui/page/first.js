// Before the first paint: the colours and the language that were chosen here, so that nothing flashes.
"use strict";
try {
  document.documentElement.dataset.theme = localStorage.getItem("sensorium-theme") || "";
  document.documentElement.lang = localStorage.getItem("sensorium-language") || (/^zh\b/i.test(navigator.language) ? "zh" : "en");
} catch {
  // A browser that remembers nothing: as its user has set it.
}
