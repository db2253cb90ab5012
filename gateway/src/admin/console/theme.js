// Before anything is drawn: whoever chose a theme is not to see the other one flash.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
