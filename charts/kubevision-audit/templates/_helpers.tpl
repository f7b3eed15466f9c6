{{- define "kubevision-audit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 52, so that what is appended leaves it a DNS label. */ -}}
{{- define "kubevision-audit.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "kubevision-audit.selector" -}}
app.kubernetes.io/name: {{ include "kubevision-audit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kubevision-audit.labels" -}}
{{ include "kubevision-audit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "kubevision-audit.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "kubevision-audit.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "kubevision-audit.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" or nothing: a template's result is a text. */ -}}
{{- define "kubevision-audit.postgres" -}}
{{- if or .Values.database.url .Values.database.existingSecret.name }}true{{ end }}
{{- end }}

{{- define "kubevision-audit.replicas" -}}
{{- if kindIs "invalid" .Values.replicas }}
{{- ternary 2 1 (eq (include "kubevision-audit.postgres" .) "true") }}
{{- else }}
{{- int .Values.replicas }}
{{- end }}
{{- end }}

{{- define "kubevision-audit.certificateSecret" -}}
{{- if eq .Values.certificate.mode "existingSecret" }}
{{- .Values.certificate.existingSecret }}
{{- else if eq .Values.certificate.mode "certManager" }}
{{- include "kubevision-audit.fullname" . }}-tls
{{- end }}
{{- end }}

{{- define "kubevision-audit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kubevision-audit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The program's configuration: the values' keys, and what only the chart knows. No password is ever in it. */ -}}
{{- define "kubevision-audit.config" -}}
{{ toYaml .Values.config }}
kubernetes:
  namespace: {{ .Release.Namespace }}
  service: {{ include "kubevision-audit.fullname" . }}
{{- if not (include "kubevision-audit.postgres" .) }}
database:
  url: sqlite:///var/lib/kubevision-audit/kubevision-audit.db
{{- end }}
audit_events:
  enabled: {{ .Values.auditEvents.enabled }}
{{- with .Values.auditEvents }}
{{- if .enabled }}
{{- if or (not .existingSecret) (not (or .tokenKey .clientCaKey)) }}
{{- fail "auditEvents.enabled needs auditEvents.existingSecret, and of auditEvents.tokenKey and auditEvents.clientCaKey at least one" }}
{{- end }}
{{- if .tokenKey }}
  bearer_token_file: /run/kubevision-audit/audit-events/{{ .tokenKey }}
{{- end }}
{{- if .clientCaKey }}
  client_ca_file: /run/kubevision-audit/audit-events/{{ .clientCaKey }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "kubevision-audit.certificateSecret" . }}
tls:
  cert_file: /run/kubevision-audit/tls/tls.crt
  key_file: /run/kubevision-audit/tls/tls.key
  ca_file: /run/kubevision-audit/tls/ca.crt
{{- end }}
{{- end }}

{{- define "kubevision-audit.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
