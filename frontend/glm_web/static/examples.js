// Example pictures, each with a question. The demo checkpoint can answer all of them.

import { notify } from "./composer.js";
import { currentLanguage } from "./i18n.js";
import { Picture } from "./pictures.js";

const EXAMPLES = [
  { pictures: ["describe.png"], en: "What is in this image?", zh: "图片里有什么？" },
  { pictures: ["count.png"], en: "How many shapes are there?", zh: "图中有多少个图形？" },
  { pictures: ["number.png"], en: "What number is shown?", zh: "图中的数字是什么？" },
  { pictures: ["color.png"], en: "What color is the triangle?", zh: "三角形是什么颜色？" },
  { pictures: ["box.png"], en: "Draw a box around the circle.", zh: "框出圆形。" },
  { pictures: ["boxes.png"], en: "Give the boxes of all shapes.", zh: "给出所有图形的框。" },
  { pictures: ["first.png", "second.png"], en: "Which image has a red star?", zh: "哪张图片有红色的星形？" },
  { pictures: ["json.png"], en: "Describe the image as JSON.", zh: "用JSON描述这张图片。" },
];

/** Show the examples; choose is called with the message of the one that is clicked. */
export function setUpExamples(choose) {
  const list = document.querySelector("#examples");
  const show = () => {
    list.replaceChildren(
      ...EXAMPLES.map((example) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        const images = document.createElement("span");
        images.className = "images";
        for (const name of example.pictures) {
          const image = document.createElement("img");
          image.src = `examples/${name}`;
          image.alt = "";
          images.append(image);
        }
        const question = document.createElement("span");
        question.className = "question";
        question.append(example[currentLanguage()]);
        button.append(images, question);
        button.addEventListener("click", async () => {
          try {
            const pictures = await Promise.all(example.pictures.map(load));
            choose({ text: example[currentLanguage()], pictures });
          } catch {
            notify("exampleMissing");
          }
        });
        item.append(button);
        return item;
      }),
    );
  };
  show();
  document.addEventListener("languagechange", show);
}

async function load(name) {
  const response = await fetch(`examples/${name}`);
  if (!response.ok) throw new Error(response.statusText);
  return new Picture(await response.blob(), name);
}
