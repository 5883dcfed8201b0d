--- The file of the system's trusted roots: require "roots"() -> path | nil.
local FILES = {
  "/etc/ssl/certs/ca-certificates.crt",   -- Debian, Alpine, Arch
  "/etc/pki/tls/certs/ca-bundle.crt",     -- Fedora, RHEL
  "/etc/ssl/ca-bundle.pem",               -- openSUSE
  "/etc/ssl/cert.pem",                    -- OpenWrt, BSD
}

return function()
  for _, path in ipairs(FILES) do
    if require("host").stat(path, true) then return path end
  end
end
