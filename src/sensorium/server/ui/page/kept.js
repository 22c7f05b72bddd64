// What the browser remembers; one that remembers nothing does so until the page is closed.
const here = new Map();

// `storage`: "sessionStorage" for the tab, or "localStorage".
export function kept(storage, name) {
  try {
    return window[storage].getItem(name) || "";
  } catch {
    return here.get(name) || "";
  }
}

export function keep(storage, name, value) {
  here.set(name, value);
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch {
    // It is kept here alone.
  }
}
