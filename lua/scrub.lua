--- What of a credential an answer is searched for on its way back. The search itself is in C (proxy.c, scrub).
local M = {}

local MODES = { text = true, head = true, off = true, all = true }

--- Which bodies are searched: "text" (the default: texts, and anything of up to 1 MiB), "all", "head", "off". nil, why
function M.mode(s)
  if MODES[s] then return s end
  return nil, "scrub is text (texts, and any body of up to 1 MiB), all, head (no body) or off (no body, and no limit of hits): where "
    .. "an answer is searched for the secret"
end

--- Did a machine make the secret of that name ("f/NAME", "f/NAME/MEMBER" or "h/NAME")? A document's members it did.
function M.made(pol, sealed)
  local name, member = sealed:match("^f/([^/]+)(/?)")
  local spec = name and pol and pol.by_name and pol.by_name[name]
  return spec ~= nil and (member ~= "" or spec.generated == true)
end

--- Those of the secrets, { ["f/NAME"] = handle … }, whose short length keeps bodies, or answers, from being searched for
--- them, by the names that `credential set` knows: { { name =, heads = bool } … } | nil. A record keeps it as `short`: its
--- sealed secrets tell their length as well.
function M.short(pol, secrets)
  local reach, short = require("secret.core").reach, {}
  for sealed, s in pairs(secrets) do
    local where = sealed:find("^[fh]/") and reach(s, M.made(pol, sealed))
    if sealed:find("^[fh]/") and where ~= "heads and bodies" then
      short[#short + 1] = { name = sealed:gsub("^f/", ""):gsub("^h/", "headers."):gsub("/", "."), heads = where == "heads" }
    end
  end
  table.sort(short, function(a, b) return a.name < b.name end)
  return short[1] and short or nil
end

return M
