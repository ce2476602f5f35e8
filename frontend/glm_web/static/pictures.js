// Pictures: taken in, sent, shown with boxes, enlarged.

import { label, t } from "./i18n.js";

// What the server reads. Others that the browser can show are sent as PNG.
const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const SCALED_SIDES = [4096, 3072, 2048, 1024];
const JPEG_QUALITY = 0.9;
// Pictures that are less wide than this are enlarged beyond their own pixels.
const SMALL = 720;

/** A picture as it will be sent. */
export class Picture {
  #data;

  constructor(blob, name) {
    Object.assign(this, { blob, name, url: URL.createObjectURL(blob) });
  }

  /** As a data URI. */
  dataUri() {
    this.#data ??= new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(this.blob);
    });
    return this.#data;
  }
}

/**
 * The picture of a file: as it is, if the server takes that, else scaled down or as a PNG.
 * Throws when it is no picture.
 */
export async function readPicture(file, maxBytes) {
  const name = file.name || t("picture");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // with a photograph's orientation
  } catch {
    // What the browser cannot show may still be a picture to the server, which says so otherwise.
    if (READ_BY_SERVER.includes(file.type) && file.size <= maxBytes) return new Picture(file, name);
    throw new Error(t("notAPicture", { name }));
  }
  try {
    if (READ_BY_SERVER.includes(file.type)) {
      if (file.size <= maxBytes) return new Picture(file, name);
    } else {
      const png = await drawn(bitmap, Infinity, "image/png");
      if (png.size <= maxBytes) return new Picture(png, name);
    }
    for (const side of SCALED_SIDES) {
      const smaller = await drawn(bitmap, side, "image/jpeg");
      if (smaller.size <= maxBytes) return new Picture(smaller, name);
    }
  } finally {
    bitmap.close();
  }
  throw new Error(t("notAPicture", { name }));
}

async function drawn(bitmap, longestSide, type) {
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
  );
  const context = canvas.getContext("2d");
  if (type === "image/jpeg") {
    context.fillStyle = "white"; // JPEG has no transparency
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type, quality: JPEG_QUALITY });
}

/** A button with the picture on it, which enlarges it. */
export function pictureButton(picture, boxes = []) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "picture";
  label(button, "enlarge", { name: picture.name });
  button.append(withBoxes(picture, boxes));
  button.addEventListener("click", () => enlarge(picture, boxes));
  return button;
}

/** The picture with boxes over it, [left, top, right, bottom] in its own pixels. */
function withBoxes(picture, boxes) {
  const frame = document.createElement("span");
  frame.className = "framed";
  const image = document.createElement("img");
  image.src = picture.url;
  image.alt = picture.name;
  frame.append(image);
  // What the browser cannot show has at least its name.
  image.addEventListener("error", () => image.replaceWith(picture.name));
  if (boxes.length) {
    image.addEventListener("load", () => {
      const { naturalWidth: width, naturalHeight: height } = image;
      boxes.forEach(({ box: [left, top, right, bottom], label: words }, index) => {
        const drawnBox = document.createElement("span");
        drawnBox.className = "box";
        drawnBox.dataset.color = index % 6;
        drawnBox.dataset.label = words ?? String(index + 1);
        drawnBox.style.left = `${(100 * left) / width}%`;
        drawnBox.style.top = `${(100 * top) / height}%`;
        drawnBox.style.width = `${(100 * (right - left)) / width}%`;
        drawnBox.style.height = `${(100 * (bottom - top)) / height}%`;
        frame.append(drawnBox);
      });
    });
  }
  return frame;
}

function enlarge(picture, boxes) {
  const frame = withBoxes(picture, boxes);
  const image = frame.querySelector("img");
  image.addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = image;
    const fits = Math.min((0.94 * innerWidth) / width, (0.92 * innerHeight) / height);
    image.style.width = `${width * Math.min(fits, Math.max(1, SMALL / width))}px`;
  });
  document.querySelector("#lightbox-content").replaceChildren(frame);
  document.querySelector("#lightbox").showModal();
}
