--- A JSON document that is a secret, taken apart when it is saved.
local core = require "secret.core"
local M = {}

--- document.split(document, { member = { secret = bool, nested = bool, optional = bool } })
--   -> { member = string | secret } | nil, "malformed" | "not_object" | "duplicate"
--                                   | nil, "absent" | "not_string", member
-- Its top members, strings only; `nested` takes any other value too, as its JSON text. null counts as absent.
function M.split(doc, spec)
  local names, kinds = {}, {}
  for name in pairs(spec) do
    names[#names + 1], kinds[name] = name, "type"
  end
  table.sort(names)     -- of several that are missing, the same is always named
  local types, code = core.expect(doc, kinds)
  if not types then return nil, code end
  for _, name in ipairs(names) do
    local s, kind = spec[name], types[name]
    if not kind and not s.optional then return nil, "absent", name end
    if kind and kind ~= "string" and not s.nested then return nil, "not_string", name end
    kinds[name] = kind and (s.secret and "sealed" or "text")
  end
  return core.expect(doc, kinds)
end

return M
