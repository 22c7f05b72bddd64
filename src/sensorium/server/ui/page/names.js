// What files are called that are made of others.

// Control signs in a file's name could do something where a command is pasted.
export const harmless = (name) => name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "_");

const WRITTEN = /\.(jpe?g|png|webp)$/i; // formats in which answers that are pictures come

// Of a type of media, or of the name of a format.
export const endingOf = (format) => format.replace("image/", "").replace("jpeg", "jpg").replace(/\W/g, "");

// What a picture comes back as, if nothing else is asked for: as what it was, where it can be written so.
export function endingLike(picture) {
  const known = WRITTEN.exec(placeOf(picture));
  return known ? endingOf(known[1].toLowerCase()) : picture.file ? "png" : "jpg";
}

// The picture's name after the task, without an ending: `cat.jpg` with its faces blurred is `cat-covered`.
export const madeOf = (picture, task) => `${harmless(placeOf(picture)).replace(/\.\w{1,5}$/, "")}-${task.name === "blur_faces" ? "covered" : task.name}`;

function placeOf(picture) {
  if (picture.file) return picture.name;
  return (URL.canParse(picture.url) && new URL(picture.url).pathname.split("/").pop()) || "picture";
}
