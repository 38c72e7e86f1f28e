// Refuse files that are no pictures, or too large, before Gradio sees them: it would tell of them in a corner of the
// window, in a style of its own. `element` and `props` are of the notice beside the upload; MOST_MEGABYTES comes first.
const why = (file) => {
  if (!file.type.startsWith("image/")) return `Cannot read the image ${file.name}: it is not a picture of a known format.`;
  if (file.size > MOST_MEGABYTES * 1024 * 1024) return `The image ${file.name} is too large: at most ${MOST_MEGABYTES} MB.`;
  return "";
};
const check = (event) => {
  if (!event.target.closest?.("#upload")) return;
  const files = (event.dataTransfer ?? event.target).files ?? [];
  const said = [...files].map(why).find(Boolean);
  if (!said) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (event.type === "change") event.target.value = ""; // so that the same file can be tried again
  const notice = document.createElement("div");
  notice.className = "notice";
  notice.setAttribute("role", "alert");
  notice.textContent = said;
  props.value = notice.outerHTML;
};
for (const type of ["change", "drop"]) document.addEventListener(type, check, true);
