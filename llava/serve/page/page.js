// What Gradio does not do: copy an answer, put the link to these settings into the address and the clipboard, and keep
// the heat map's opacity from one picture to the next.
(() => {
  function copy(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea"); // over plain HTTP from another machine there is no clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    return Promise.resolve();
  }

  function copyAndSay(text, button) {
    const label = button.textContent;
    copy(text).then(() => "Copied", () => "Not copied").then((said) => {
      button.textContent = said;
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("button.copy");
    if (button && button.textContent === "Copy") copyAndSay(button.previousElementSibling.innerText, button);
  });

  let opacity = ""; // as the visitor has set it
  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("input.opacity")) return;
    opacity = event.target.value;
    document.documentElement.style.setProperty("--opacity", opacity);
  });
  new MutationObserver(() => {
    const control = opacity && document.querySelector("input.opacity");
    if (control && control.value !== opacity) control.value = opacity; // of a new map
  }).observe(document, { childList: true, subtree: true });

  window.llavaLink = (query) => {
    if (!query) return; // the settings were refused
    history.replaceState(null, "", query);
    const button = document.querySelector("#link");
    if (button.textContent.trim() === "Copy link") copyAndSay(location.href, button);
  };
})();
